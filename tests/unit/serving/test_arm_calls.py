"""Requests for an isolated arm: few calls, nobody held up, each with its own reply."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ray_mlops.errors import FeatureError, RayMLOpsError
from ray_mlops.serving.arm_calls import JOINED_ROWS, ArmCalls, Reply, Rows
from ray_mlops.serving.arm_replies import packed, unpacked
from ray_mlops.serving.predictor import Answer
from ray_mlops.training.prediction import Prediction

LONG_S = 3600.0


def answer(rows: Sequence[Any]) -> Answer:
    return Answer(Prediction("regression", np.array([2.0 * row["x"] for row in rows])), 0.001)


class Arm:
    """Answers a call when it is told to, and remembers what came together."""

    def __init__(self) -> None:
        self.calls: list[list[list[float]]] = []
        self.cancelled = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, requests: list[Rows]) -> list[Reply]:
        self.calls.append([[row["x"] for row in rows] for rows in requests])
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [FeatureError("x is negative", "x") if rows[0]["x"] < 0 else answer(rows) for rows in requests]


async def ask(calls: ArmCalls, *xs: float) -> list[float]:
    return (await calls.predict([{"x": x} for x in xs])).prediction.values.tolist()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_first_request_leaves_at_once_and_the_next_wait_for_the_pace() -> None:
    async def scene() -> None:
        arm = Arm()
        calls = ArmCalls(arm, pace_s=0.01)
        assert await ask(calls, 1) == [2.0]
        rest = [asyncio.ensure_future(ask(calls, x)) for x in (2, 3)]
        await turns()
        assert arm.calls == [[[1]]]
        assert await asyncio.gather(*rest) == [[4.0], [6.0]]
        assert arm.calls == [[[1]], [[2], [3]]]

    asyncio.run(scene())


def test_requests_of_one_moment_are_one_call_with_a_reply_for_each() -> None:
    async def scene() -> None:
        arm = Arm()
        calls = ArmCalls(arm)
        found = await asyncio.gather(ask(calls, 1), ask(calls, -1), ask(calls, 3, 4), return_exceptions=True)
        assert (found[0], found[2]) == ([2.0], [6.0, 8.0])
        assert isinstance(found[1], FeatureError)
        assert arm.calls == [[[1], [-1], [3, 4]]]

    asyncio.run(scene())


def test_large_request_travels_alone_and_a_full_call_is_cut() -> None:
    async def scene() -> None:
        arm = Arm()
        calls = ArmCalls(arm)
        half = [float(x) for x in range(JOINED_ROWS // 2)]
        large = [float(x) for x in range(JOINED_ROWS + 1)]
        await asyncio.gather(ask(calls, *half), ask(calls, *half), ask(calls, 1), ask(calls, *large))
        assert sorted([len(rows) for rows in call] for call in arm.calls) == [[1], [len(half)] * 2, [len(large)]]

    asyncio.run(scene())


def test_call_that_hangs_does_not_hold_up_the_next() -> None:
    async def scene() -> None:
        arm = Arm()
        arm.may_answer.clear()
        calls = ArmCalls(arm, pace_s=0.0)
        hung = asyncio.ensure_future(ask(calls, 1))
        await turns()
        arm.may_answer = asyncio.Event()
        arm.may_answer.set()
        assert await ask(calls, 2) == [4.0]
        assert not hung.done()
        hung.cancel()
        await asyncio.gather(hung, return_exceptions=True)
        await turns()
        assert arm.cancelled == 1

    asyncio.run(scene())


def test_call_goes_on_while_one_of_its_requests_is_still_wanted() -> None:
    async def scene() -> None:
        arm = Arm()
        arm.may_answer.clear()
        calls = ArmCalls(arm)
        gone, wanted = asyncio.ensure_future(ask(calls, 1)), asyncio.ensure_future(ask(calls, 2))
        await turns()
        gone.cancel()
        await turns()
        arm.may_answer.set()
        assert await wanted == [4.0]
        assert arm.cancelled == 0

    asyncio.run(scene())


def test_request_whose_client_has_gone_before_the_call_is_not_sent() -> None:
    async def scene() -> None:
        arm = Arm()
        calls = ArmCalls(arm, pace_s=LONG_S)
        await ask(calls, 1)
        gone = asyncio.ensure_future(ask(calls, 2))
        await turns()
        gone.cancel()
        await turns()
        calls._leave()
        await turns()
        assert arm.calls == [[[1]]]

    asyncio.run(scene())


def test_failed_call_is_told_to_each_that_waits() -> None:
    async def scene() -> None:
        async def broken(requests: list[Rows]) -> list[Reply]:
            raise ConnectionError("its process is gone")

        calls = ArmCalls(broken)
        found = await asyncio.gather(ask(calls, 1), ask(calls, 2), return_exceptions=True)
        assert [type(each) for each in found] == [ConnectionError, ConnectionError]

    asyncio.run(scene())


def test_replies_survive_the_way_and_foreign_errors_become_ours() -> None:
    values = np.array([[0.25, 0.75], [np.nan, np.inf]])
    multiclass = Answer(Prediction("multiclass", values, ("a", "b")), 0.5)
    first, second, third = unpacked(packed([multiclass, ZeroDivisionError("no"), FeatureError("wrong", "x", "do")]))
    assert isinstance(first, Answer)
    np.testing.assert_array_equal(first.prediction.values, values)
    assert (first.prediction.task, first.prediction.classes, first.seconds) == ("multiclass", ("a", "b"), 0.5)
    assert type(second) is RayMLOpsError
    assert "ZeroDivisionError: no" in str(second)
    assert isinstance(third, FeatureError)
    with pytest.raises(KeyboardInterrupt):
        packed([KeyboardInterrupt()])
