"""A user's own model: found, trusted and held to the contract, with errors that name it."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ray_mlops.errors import BundleError, TrainingError
from ray_mlops.training.factory import build_model, check_trusted
from ray_mlops.training.models import ModelSpec

SPEC = ModelSpec("binary", 3, (4, 2), 1)

SOURCE = """
import torch
from torch import nn

NUMBER = 3

class Linear(nn.Module):
    def __init__(self, spec, outputs):
        super().__init__()
        self.layer = nn.Linear(spec.num_numeric, outputs)

    def forward(self, numeric, categorical):
        return self.layer(numeric)

def good(spec, outputs=1):
    return Linear(spec, outputs)

def not_a_module(spec):
    return "model"

def wants_more(spec):
    class Wants(nn.Module):
        def forward(self, numeric, categorical):
            return numeric[:, 7:8] @ torch.zeros(9, 9)
    return Wants()

def whole_numbers(spec):
    class Whole(nn.Module):
        def forward(self, numeric, categorical):
            return categorical[:, :1]
    return Whole()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_models"


def test_build_model_takes_a_user_s_factory_with_parameters(own: str) -> None:
    model = build_model(f"{own}:good", SPEC, {})
    assert isinstance(model, nn.Module)
    assert model.training


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("missing", {}, r"cannot import 'own_models:missing'.*PYTHONPATH"),
        ("NUMBER", {}, "is a int, expected a function"),
        ("good", {"width": 3}, r"own_models:good' cannot be called with \(spec, width\).*it takes \(spec, outputs=1\)"),
        ("good", {"outputs": 2}, r"own_models:good' returned \[2, 2\] torch.float32 .* expected \[2, 1\]"),
        ("good", {"outputs": "two"}, "own_models:good' failed"),
        ("not_a_module", {}, "returned a str, expected a torch.nn.Module"),
        ("wants_more", {}, r"own_models:wants_more' failed on numeric \[2, 3\] and categorical \[2, 2\]"),
        ("whole_numbers", {}, r"returned \[2, 1\] torch.int64"),
    ],
)
def test_build_model_that_breaks_the_contract_names_the_factory(
    own: str, name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        build_model(f"{own}:{name}", SPEC, params)


def test_build_model_without_the_package_says_so() -> None:
    with pytest.raises(TrainingError, match="No module named 'nowhere'"):
        build_model("nowhere.models:net", SPEC, {})


@pytest.mark.parametrize(
    ("path", "trusted"),
    [
        ("ray_mlops.training.models:tabular", ()),
        ("shop.models:net", ("shop.models",)),
        ("shop.models:net", ("shop.",)),
        ("shop.models:net", ("shop.models:net",)),
    ],
)
def test_check_trusted_allows_our_model_and_what_is_named(path: str, trusted: tuple[str, ...]) -> None:
    check_trusted(path, trusted)


@pytest.mark.parametrize(
    ("path", "trusted"),
    [
        ("os:system", ("ray_mlops.",)),
        ("shop.models:net", ("shop.model",)),
        ("shopping.models:net", ("shop",)),
        ("ray_mlops.runtime.files:write_atomically", ("ray_mlops.",)),
        ("ray_mlops_evil:net", ("ray_mlops.",)),
        ("shop.models:net", ("",)),
    ],
)
def test_check_trusted_refuses_the_rest_without_importing(path: str, trusted: tuple[str, ...]) -> None:
    with pytest.raises(BundleError, match="not trusted"):
        check_trusted(path, trusted)


def test_the_example_of_a_user_s_model_keeps_the_contract() -> None:
    file = Path(__file__).parents[2] / "integration" / "user_model.py"
    spec = importlib.util.spec_from_file_location("user_model", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    outputs = module.wide_and_deep(SPEC)(torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int64))
    assert outputs.shape == (2, 1)
