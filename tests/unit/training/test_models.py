"""The default model: shapes, what the ensemble's average means, size of its parts."""

import math
import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from ray_mlops.errors import TrainingError
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import TABULAR_DEFAULTS, ModelSpec, TabularNetwork, tabular
from ray_mlops.training.space import TABULAR

ROWS = 7


def inputs(spec: ModelSpec, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    categorical = [torch.randint(0, size, (rows,)) for size in spec.categorical_sizes]
    empty = torch.zeros(rows, 0, dtype=torch.int64)
    return torch.randn(rows, spec.num_numeric), torch.stack(categorical, 1) if categorical else empty


@pytest.mark.parametrize("embedding", ["none", "piecewise_linear", "periodic"])
@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("binary", 3, (4, 2), 1),
        ModelSpec("multiclass", 3, (4, 2), 5),
        ModelSpec("regression", 0, (4,), 1),
        ModelSpec("regression", 3, (), 1),
    ],
)
def test_tabular_returns_one_row_of_finite_outputs_for_each_row(spec: ModelSpec, embedding: str) -> None:
    model = build_model(TABULAR, spec, {"numeric_embedding": embedding, "hidden": 8})
    numeric, categorical = inputs(spec)
    outputs = model.eval()(numeric, categorical)
    assert outputs.shape == (ROWS, spec.num_outputs)
    assert outputs.dtype == torch.float32
    assert torch.isfinite(outputs).all()
    target = torch.zeros(ROWS)
    assert isinstance(model, TabularNetwork)
    loss = model.train().training_loss(numeric, categorical, target, torch.ones(ROWS))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.numel())


def test_tabular_in_evaluation_averages_its_members_probabilities() -> None:
    spec = ModelSpec("binary", 3, (4,), 1)
    model = tabular(spec, members=4, hidden=8).eval()
    numeric, categorical = inputs(spec)
    expected = torch.sigmoid(model.member_outputs(numeric, categorical)[..., 0].double()).mean(0)
    np.testing.assert_allclose(torch.sigmoid(model(numeric, categorical)[:, 0]).detach(), expected.detach(), rtol=1e-5)

    spec = ModelSpec("multiclass", 3, (4,), 3)
    model = tabular(spec, members=4, hidden=8).eval()
    expected = functional.softmax(model.member_outputs(numeric, categorical).double(), -1).mean(0)
    got = functional.softmax(model(numeric, categorical), -1)
    np.testing.assert_allclose(got.detach(), expected.detach(), rtol=1e-5)


def test_tabular_average_survives_extreme_members() -> None:
    spec = ModelSpec("binary", 1, (), 1)
    model = tabular(spec, members=2, hidden=4).eval()
    with torch.no_grad():
        model.head_bias.copy_(torch.tensor([[[500.0]], [[400.0]]]))
    assert torch.isfinite(model(torch.zeros(2, 1), torch.zeros(2, 0, dtype=torch.int64))).all()


def test_training_loss_is_the_mean_of_members_losses_not_the_loss_of_their_average() -> None:
    spec = ModelSpec("binary", 3, (), 1)
    model = tabular(spec, members=4, hidden=8, dropout=0.0)
    numeric, categorical = inputs(spec)
    target, weight = torch.tensor([0.0, 1.0] * 3 + [1.0]), torch.linspace(0.5, 1.5, ROWS)
    outputs = model.member_outputs(numeric, categorical)[..., 0]
    each = [functional.binary_cross_entropy_with_logits(row, target, weight) for row in outputs]
    got = model.training_loss(numeric, categorical, target, weight)
    assert got.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-6)
    average = functional.binary_cross_entropy_with_logits(model.eval()(numeric, categorical)[:, 0], target, weight)
    assert got.item() > average.item()


def test_piecewise_linear_embedding_fills_its_pieces_from_below() -> None:
    spec = ModelSpec("regression", 1, (), 1)
    embedding = tabular(spec, numeric_embedding="piecewise_linear", numeric_embedding_size=4).numeric_embedding
    spread = embedding(torch.tensor([[-9.0], [0.0], [9.0]]))
    np.testing.assert_allclose(spread, [[-9, 0, 0, 0, 0], [0, 1, 1, 0, 0], [9, 1, 1, 1, 1]], atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    spec = ModelSpec("regression", 2, (), 1)
    model = tabular(spec, dropout=0.5, hidden=16)
    numeric, categorical = inputs(spec)
    assert not torch.equal(model(numeric, categorical), model(numeric, categorical))
    model.eval()
    assert torch.equal(model(numeric, categorical), model(numeric, categorical))


def test_defaults_are_those_of_the_signature() -> None:
    assert dict(TABULAR_DEFAULTS) == tabular.__kwdefaults__


@pytest.mark.parametrize("params", [{"hidden": 0}, {"dropout": 1.0}, {"numeric_embedding": "magic"}])
def test_tabular_refuses_parameters_that_make_no_sense(params: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=r"training\.params"):
        build_model(TABULAR, ModelSpec("binary", 1, (), 1), params)


def test_spec_survives_json() -> None:
    spec = ModelSpec("multiclass", 3, (4, 2), 5)
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_one_row_takes_less_than_a_millisecond() -> None:
    spec = ModelSpec("binary", 25, (17, 5, 95, 34, 8, 9), 1)
    model = tabular(spec).eval()
    numeric, categorical = inputs(spec, 1)
    times = []
    with torch.inference_mode():
        for _ in range(200):
            start = time.perf_counter()
            model(numeric, categorical)
            times.append(time.perf_counter() - start)
    assert math.isfinite(min(times))
    assert min(times) < 1e-3
