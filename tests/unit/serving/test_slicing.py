"""Which slice a value lies in, and how slices are frozen from the champion's reference."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_mlops.data.reference import ColumnReference, ReferenceProfile
from ray_mlops.runtime.files import Files
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.slicing import SliceColumn, freeze_slices, slice_labels
from ray_mlops.statistics.bins import Bins, CategoricalBins, ColumnCounts, NumericBins


def reference(bins: Bins, values: Any, kind: Any) -> ColumnReference:
    return ColumnReference(bins, {3: ColumnCounts.of(bins, values)}, kind)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    names = ["DL"] * 5 + ["AA"] * 9 + ["B6"] * 2 + ["WN"]
    numbers = np.arange(1000.0)
    columns = {
        "carrier": reference(CategoricalBins(("DL", "AA", "B6", "WN"), frozenset()), names, "categorical"),
        "distance": reference(NumericBins.from_sample(numbers), numbers, "numeric"),
        "departure": reference(NumericBins.from_sample(numbers), numbers, "datetime"),
        "same": reference(NumericBins.from_sample([2.0]), [2.0], "numeric"),
        "late": reference(CategoricalBins(("false", "true"), frozenset()), ["true", "false"], "boolean"),
    }
    content = ReferenceProfile(86_400_000_000, columns).to_json()
    Files(str(tmp_path)).write("profile.json", json.dumps(content).encode())
    return str(tmp_path)


def test_frequent_values_are_slices_and_all_else_is_one(bundle: str) -> None:
    (carrier,) = freeze_slices(bundle, ["carrier"], 2)
    assert carrier.labels == ("carrier=AA", "carrier=DL", "carrier=(other)", "carrier=(missing)")
    assert carrier.codes(["B6", "DL", "never seen", None, "", 7, ["x"]]).tolist() == [2, 1, 2, 3, 3, 2, 3]


def test_numbers_are_cut_at_the_quartiles_of_the_reference(bundle: str) -> None:
    (distance,) = freeze_slices(bundle, ["distance"], 10)
    assert len(distance.labels) == 5
    counts = np.bincount(distance.codes(np.arange(1000.0).tolist()), minlength=5)
    assert counts[:4].tolist() == pytest.approx([250] * 4, abs=40)
    assert distance.codes([None, float("nan"), float("inf"), "12", True, 10**400]).tolist() == [4] * 6
    assert distance.codes([-5, 1e9, distance.edges[0]]).tolist() == [0, 3, 0]


def test_booleans_are_the_same_as_words_and_numbers(bundle: str) -> None:
    (late,) = freeze_slices(bundle, ["late"], 10)
    assert [late.labels[code] for code in late.codes([True, 1, False, 0.0, None])] == [
        *("late=true", "late=true", "late=false", "late=false", "late=(missing)")
    ]


@pytest.mark.parametrize(
    ("column", "problem"), [("departure", "times"), ("same", "constant"), ("nowhere", "not an input of the champion")]
)
def test_column_without_slices_says_why(bundle: str, column: str, problem: str) -> None:
    (found,) = freeze_slices(bundle, [column], 10)
    assert problem in found.problem
    assert found.labels == ()


def test_bundle_that_cannot_be_read_leaves_no_slices(tmp_path: Path) -> None:
    (found,) = freeze_slices(str(tmp_path / "gone"), ["carrier"], 10)
    assert "cannot be read" in found.problem
    assert freeze_slices(str(tmp_path / "gone"), [], 10) == ()


def test_slices_survive_the_ledger(bundle: str) -> None:
    slices = freeze_slices(bundle, ["carrier", "distance", "nowhere"], 3)
    routes = ModelRoutes("m", 4, Arm("1", "a", "x"), slices=slices)
    content = json.loads(json.dumps(routes.to_json()))
    assert ModelRoutes.from_json(content) == routes
    assert len(slice_labels(slices)) == 10
    del content["slices"]
    assert ModelRoutes.from_json(content).slices == ()


def test_a_value_of_any_type_is_somewhere() -> None:
    column = SliceColumn("x", values=("a",))
    assert column.codes([object(), b"a", "a", 1.5]).tolist() == [2, 2, 0, 1]
