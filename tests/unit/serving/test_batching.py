"""Requests of one moment are predicted together; each sees only its own rows, and its own mistakes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ray_mlops.errors import FeatureError
from ray_mlops.serving.batching import PROBE_EVERY, MicroBatcher, ThreadBatcher
from ray_mlops.serving.predictor import Predictor
from ray_mlops.training.prediction import Prediction


class Doubler:
    """Predicts twice the number of a row, and remembers how many rows came together."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Prediction:
        self.sizes.append(len(rows))
        if any(row["x"] is None for row in rows):
            raise FeatureError("x is missing", "row")
        return Prediction("regression", np.array([2.0 * row["x"] for row in rows]))


def busy(model: Doubler, fits: Callable[[int], bool] = lambda rows: True) -> MicroBatcher:
    """A batcher that has seen company."""
    batcher = MicroBatcher(model, fits)
    batcher.usual_size = 4.0
    return batcher


async def together(batcher: MicroBatcher, *requests: list[Any]) -> list[Any]:
    calls: list[Awaitable[Any]] = [batcher.predict([{"x": x} for x in request]) for request in requests]
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [each if isinstance(each, BaseException) else each[0].values.tolist() for each in found]


def test_requests_of_one_moment_are_one_batch_and_get_their_own_rows_back() -> None:
    model = Doubler()
    assert asyncio.run(together(busy(model), [1], [2, 3], [4])) == [[2.0], [4.0, 6.0], [8.0]]
    assert model.sizes == [4]


def test_batch_is_cut_where_it_would_take_too_long() -> None:
    model = Doubler()
    found = asyncio.run(together(busy(model, lambda rows: rows <= 3), [1, 1], [2], [3, 3], [4]))
    assert found == [[2.0, 2.0], [4.0], [6.0, 6.0], [8.0]]
    assert model.sizes == [3, 3]


def test_request_that_cannot_be_predicted_does_not_spoil_the_others() -> None:
    model = Doubler()
    first, second, third = asyncio.run(together(busy(model), [1], [None], [3]))
    assert (first, third) == ([2.0], [6.0])
    assert isinstance(second, FeatureError)
    assert model.sizes == [3, 1, 1, 1]


def test_request_whose_client_has_gone_is_left_out_of_the_answers() -> None:
    async def scene() -> Any:
        batcher = busy(Doubler())
        gone = asyncio.create_task(batcher.predict([{"x": 1}]))
        stays = asyncio.create_task(batcher.predict([{"x": 2}]))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(scene())[0].values.tolist() == [4.0]


def test_requests_that_come_one_by_one_are_predicted_at_once_until_company_is_found() -> None:
    async def scene() -> None:
        model = Doubler()
        batcher = MicroBatcher(model, lambda rows: True)
        for number in range(PROBE_EVERY - 1):
            await batcher.predict([{"x": number}])
        assert batcher.usual_size == 1.0
        await together(batcher, *[[1]] * (PROBE_EVERY + 4))
        assert batcher.usual_size > 1.0
        assert max(model.sizes) > 1
        for number in range(100):
            await batcher.predict([{"x": number}])
        assert batcher.usual_size < 1.5

    asyncio.run(scene())


def test_predictor_answers_many_requests_as_it_answers_one(kit: Any) -> None:
    predictor = Predictor(kit.build_bundle())
    predictor.warm_up()
    rows = [{"distance": 10.0 * number, "carrier": "UA"} for number in range(40)]

    async def scene() -> list[float]:
        predictor._batcher.usual_size = 8.0
        answers = await asyncio.gather(*(predictor.answer([row]) for row in rows))
        return [float(answer.prediction.values[0]) for answer in answers]

    alone = [float(predictor.bundle.predict([row]).values[0]) for row in rows]
    assert asyncio.run(scene()) == pytest.approx(alone, abs=1e-6)


def test_one_request_alone_gets_the_bits_of_the_bundle(kit: Any) -> None:
    for task in ("binary", "multiclass", "regression"):
        predictor = Predictor(kit.build_bundle(task))
        for count in (1, 2, 7, 64):
            rows = [{"distance": 3.7 * number, "carrier": "DL"} for number in range(count)]
            assert np.array_equal(predictor.predict_rows(rows).values, predictor.bundle.predict(rows).values)


class Thread:
    """A model's own thread: runs one thing at a time, when it is let."""

    def __init__(self) -> None:
        self.may_run = asyncio.Event()
        self.running = 0

    async def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self.running += 1
        assert self.running == 1
        await self.may_run.wait()
        self.running -= 1
        return work(*arguments)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def ask(batcher: ThreadBatcher, *xs: Any) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(batcher.predict([{"x": x} for x in xs]))


def test_what_comes_while_a_slow_model_predicts_is_the_next_batch() -> None:
    async def scene() -> None:
        model, thread = Doubler(), Thread()
        batcher = ThreadBatcher(model, thread, lambda rows: True)
        first = ask(batcher, 1)
        await turns()
        rest = [ask(batcher, 2, 3), ask(batcher, 4)]
        await turns()
        thread.may_run.set()
        found = [(await call)[0].values.tolist() for call in (first, *rest)]
        assert found == [[2.0], [4.0, 6.0], [8.0]]
        assert model.sizes == [1, 3]
        assert (await ask(batcher, 5))[0].values.tolist() == [10.0]  # the worker that ended is replaced

    asyncio.run(scene())


def test_slow_batch_is_cut_and_leaves_out_who_has_gone() -> None:
    async def scene() -> None:
        model, thread = Doubler(), Thread()
        batcher = ThreadBatcher(model, thread, lambda rows: rows <= 3)
        first = ask(batcher, 1)
        await turns()
        large, gone, last = ask(batcher, *range(5)), ask(batcher, 7), ask(batcher, 8)
        await turns()
        gone.cancel()
        thread.may_run.set()
        await asyncio.gather(first, large, last)
        assert model.sizes == [1, 5, 1]

    asyncio.run(scene())


def test_slow_request_that_cannot_be_predicted_does_not_spoil_the_others() -> None:
    async def scene() -> None:
        model, thread = Doubler(), Thread()
        thread.may_run.set()
        batcher = ThreadBatcher(model, thread, lambda rows: True)
        good, bad = ask(batcher, 1), ask(batcher, None)
        found = await asyncio.gather(good, bad, return_exceptions=True)
        assert found[0][0].values.tolist() == [2.0]
        assert isinstance(found[1], FeatureError)

    asyncio.run(scene())


def test_thread_that_fails_tells_everybody_who_waits() -> None:
    async def scene() -> None:
        async def closed(work: Callable[..., Any], *arguments: Any) -> Any:
            raise RuntimeError("cannot schedule new futures after shutdown")

        batcher = ThreadBatcher(Doubler(), closed, lambda rows: True)
        found = await asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True)
        assert [type(each) for each in found] == [RuntimeError, RuntimeError]

    asyncio.run(scene())
