"""The epoch loop: determinism, resuming, early stopping, weights, errors."""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ray_mlops.config import TrainingConfig
from ray_mlops.errors import TrainingError
from ray_mlops.training.checkpoint import State, state_from_bytes, state_to_bytes
from ray_mlops.training.loop import EpochRecord, FitResult, ShuffledRows, Worker, fit_model
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.rows import TensorData, to_tensors
from ray_mlops.training.scaling import TargetScaling

Problem = Any


@pytest.fixture
def problem(make_problem: Callable[..., Problem]) -> Problem:
    return make_problem()


def tensors(problem: Problem) -> tuple[TensorData, TensorData]:
    data, scaling = problem.data, TargetScaling.fit(problem.data.spec.task, problem.data.train.target)
    return to_tensors(data.train, scaling, 1.0), to_tensors(data.validation, scaling, 1.0)


def run(problem: Problem, config: TrainingConfig | None = None, **options: Any) -> FitResult:
    train, validation = tensors(problem)
    return fit_model(problem.data.spec, config or problem.config.training, ShuffledRows(train), validation, **options)


def assert_same(got: FitResult, expected: FitResult) -> None:
    assert got.best_epoch == expected.best_epoch
    assert [record.validation_loss for record in got.history] == [r.validation_loss for r in expected.history]
    assert all(torch.equal(got.state[name], tensor) for name, tensor in expected.state.items())


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_fit_model_learns_each_task(make_problem: Callable[..., Problem], task: str) -> None:
    result = run(make_problem(task))
    baseline = {"binary": 0.69, "multiclass": 1.09, "regression": 1.0}[task]
    assert result.best_loss < 0.8 * baseline
    assert result.best_loss == min(record.validation_loss for record in result.history)


def test_fit_model_again_gives_the_same_bits_whatever_was_drawn_before(problem: Problem) -> None:
    first = run(problem)
    torch.manual_seed(99)
    torch.rand(3)
    assert_same(run(problem), first)
    other = run(problem, problem.config.training.model_copy(update={"seed": 1}))
    assert other.best_loss != first.best_loss


def test_fit_model_shuffles_by_its_seed(problem: Problem) -> None:
    still = {**problem.config.training.params, "dropout": 0.0}
    start = run(problem, problem.config.training.model_copy(update={"params": still, "epochs": 1})).state
    configs = [problem.config.training.model_copy(update={"params": still, "seed": seed}) for seed in (0, 1)]
    one, other = (run(problem, config, initial_weights=start) for config in configs)
    assert one.history[0].validation_loss == other.history[0].validation_loss
    assert one.history[1].validation_loss != other.history[1].validation_loss


def test_fit_model_leaves_torch_as_it_was(problem: Problem) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = torch.get_num_threads(), torch.random.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    run(problem)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert torch.are_deterministic_algorithms_enabled() == before[2]
    torch.set_num_threads(threads)


@pytest.mark.parametrize("after", [1, 3, 6])
def test_fit_model_resumed_ends_like_an_undisturbed_run(problem: Problem, after: int) -> None:
    states: dict[int, bytes] = {}

    def keep(record: EpochRecord, make_state: Callable[[], State]) -> None:
        states[record.epoch] = state_to_bytes(make_state())

    whole = run(problem, on_epoch=keep)
    assert list(states) == [1, 2, 3, 4, 5, 6]
    assert_same(run(problem, resume=state_from_bytes(states[after])), whole)


def test_a_state_loads_without_running_code_and_a_newer_one_is_refused() -> None:
    evil = io.BytesIO()
    torch.save({"schema_version": 1, "evil": _Scripted()}, evil)
    with pytest.raises(TrainingError, match="cannot be read: Weights only load failed"):
        state_from_bytes(evil.getvalue())
    with pytest.raises(TrainingError, match="schema_version 2"):
        state_from_bytes(state_to_bytes({"schema_version": 2}))


class _Scripted(nn.Module):
    """Gives the validation losses it is told to, whatever happens in training."""

    losses: tuple[float, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.epoch_mark = nn.Parameter(torch.zeros(1))
        self.register_buffer("evaluations", torch.zeros(1))

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        if not self.training and len(numeric) > 2:  # not the probe
            self.evaluations += 1
            return torch.full((len(numeric), 1), math.sqrt(self.losses[int(self.evaluations) - 1]))
        return self.epoch_mark.expand(len(numeric), 1)


def test_fit_model_stops_when_the_validation_loss_gets_no_better_and_keeps_the_best_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Scripted, "losses", (3.0, 1.0, 2.0, 1.0, 0.5))
    monkeypatch.setattr("ray_mlops.training.loop.build_model", lambda path, spec, params: _Scripted())
    zeros = TensorData(torch.zeros(8, 1), torch.zeros(8, 0, dtype=torch.int64), torch.zeros(8), torch.ones(8))
    spec = ModelSpec("regression", 1, (), 1)
    result = fit_model(spec, TrainingConfig(epochs=9, patience=2), ShuffledRows(zeros), zeros)
    assert [record.validation_loss for record in result.history] == pytest.approx([3.0, 1.0, 2.0, 1.0])
    assert result.best_epoch == 2
    assert result.state["evaluations"].item() == 2.0


def test_fit_model_out_of_time_starts_no_new_epoch(problem: Problem) -> None:
    assert len(run(problem, time_budget_s=0.0).history) == 1


def test_fit_model_weighs_rows(problem: Problem) -> None:
    train, validation = tensors(problem)
    only_yes = [replace(rows, weight=(rows.target == 1).float() * 2) for rows in (train, validation)]
    config = problem.config.training
    result = fit_model(problem.data.spec, config, ShuffledRows(only_yes[0]), only_yes[1])
    assert not (validation.target == 1).all()
    assert result.best_loss < 0.05


def test_fit_model_from_weights_starts_there_and_may_keep_them(problem: Problem) -> None:
    trained = run(problem)
    wild = problem.config.training.model_copy(update={"learning_rate": 0.5, "epochs": 2})
    result = run(problem, wild, initial_weights=trained.state)
    assert result.history[0].epoch == 0
    assert result.history[0].validation_loss == trained.best_loss
    assert result.best_epoch == 0
    assert math.isnan(result.history[0].train_loss)
    assert "train_loss" not in result.history[0].metrics()


def test_fit_model_from_weights_of_another_shape_says_why(problem: Problem) -> None:
    wider = problem.config.training.model_copy(update={"params": {"hidden": 16, "members": 2}})
    with pytest.raises(
        TrainingError, match=r"do not fit the model: \S+ is \[.*\], expected \[.*\] \(and 7 more\); .*same features"
    ):
        run(problem, wider, initial_weights=run(problem).state)


def test_fit_model_with_a_loss_that_explodes_names_epoch_and_remedy(problem: Problem) -> None:
    wild = problem.config.training.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"not finite in epoch \d .*lower training\.learning_rate"):
        run(problem, wild)


def test_fit_model_without_validation_rows_is_refused(problem: Problem) -> None:
    train, validation = tensors(problem)
    with pytest.raises(TrainingError, match="no validation rows"):
        fit_model(problem.data.spec, problem.config.training, ShuffledRows(train), validation.take(torch.arange(0)))


def test_fit_model_on_several_workers_sums_their_measures_and_divides_the_batch(problem: Problem) -> None:
    seen: list[int] = []

    class Counted:
        def epoch(self, batch_rows: int, generator: torch.Generator) -> Iterator[TensorData]:
            seen.append(batch_rows)
            yield from ShuffledRows(tensors(problem)[0]).epoch(batch_rows, generator)

    calls: list[list[float]] = []

    def reduce(sums: torch.Tensor) -> torch.Tensor:
        calls.append(sums.tolist())
        return sums * 2

    worker = Worker(rank=1, num_workers=2, reduce=reduce)
    validation = tensors(problem)[1]
    config = problem.config.training.model_copy(update={"epochs": 1})
    fit_model(problem.data.spec, config, Counted(), validation, worker=worker)
    assert seen == [64]
    assert calls[0][3] == len(validation) // 2


def test_an_epoch_gives_each_row_once_in_batches_of_almost_one_size() -> None:
    rows = TensorData(torch.zeros(1000, 0), torch.zeros(1000, 0), torch.arange(1000), torch.ones(1000))
    batches = list(ShuffledRows(rows).epoch(300, torch.Generator().manual_seed(1)))
    assert sorted(len(batch) for batch in batches) == [333, 333, 334]
    given = torch.cat([batch.target for batch in batches])
    assert not torch.equal(given, rows.target)
    np.testing.assert_array_equal(np.sort(given), np.arange(1000))
