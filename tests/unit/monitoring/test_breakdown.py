"""Realised performance by arm, version, slice and group."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.evaluation.metrics import compute_metrics
from ray_mlops.monitoring.breakdown import Breakdown, Slicing, break_down, total
from ray_mlops.serving.slicing import SliceColumn
from ray_mlops.statistics.losses import Task

CITY = SliceColumn("city", values=("a", "b"))
AGE = SliceColumn("age", edges=(30.0,))
SLICING = Slicing((CITY,), (AGE, SliceColumn("secret", problem="redacted")))


def rows(n: int = 400, seed: int = 0, label: Any = None) -> pa.Table:
    rng = np.random.default_rng(seed)
    target = (rng.random(n) < 0.4).astype(float) if label is None else np.asarray(label(rng, n), dtype=np.float64)
    target[rng.random(n) < 0.25] = np.nan
    return pa.table(
        {
            "arm": rng.choice(["champion", "candidate"], n, p=[0.8, 0.2]),
            "version": rng.choice(["1", "2"], n),
            "pinned": rng.random(n) < 0.1,
            "features.city": pa.array(rng.choice(["a", "b", "c"], n), mask=rng.random(n) < 0.05),
            "features.age": rng.uniform(18, 60, n),
            "label": target,
        }
    )


def cut(table: pa.Table, prediction: np.ndarray, task: Task = "binary", weights: Any = None) -> Breakdown:  # type: ignore[type-arg]
    return break_down(table, prediction, np.ones(table.num_rows) if weights is None else weights, task, SLICING)


def line(found: Breakdown, by: str, value: str) -> dict[str, Any]:
    return next(each for each in found.shown() if (each["by"], each["value"]) == (by, value))


def test_each_cell_has_the_metrics_of_its_own_rows() -> None:
    table, prediction = rows(), np.random.default_rng(9).random(400)
    found = cut(table, prediction)
    usual = ~table["pinned"].to_numpy()
    is_a = usual & (table["arm"].to_numpy() == "champion") & (table["features.city"].to_numpy() == "a")
    known = is_a & ~np.isnan(table["label"].to_numpy())
    shown = line(found, "slice", "city=a")
    expected = compute_metrics("binary", prediction[known], table["label"].to_numpy()[known])
    assert (shown["rows"], shown["labelled"]) == (is_a.sum(), known.sum())
    assert shown["coverage"] == pytest.approx(known.sum() / is_a.sum())
    assert shown["accuracy"] == pytest.approx(expected["accuracy"])
    assert shown["loss"] == pytest.approx(expected["brier"])
    assert shown["log_loss"] == pytest.approx(expected["log_loss"])
    truth, chosen = table["label"].to_numpy()[known], prediction[known] >= 0.5
    assert shown["true_positive_rate"] == pytest.approx(chosen[truth == 1].mean())
    assert shown["false_positive_rate"] == pytest.approx(chosen[truth == 0].mean())
    assert shown["selection_rate"] == pytest.approx(chosen.mean())


def test_arms_and_versions_share_out_all_rows_that_were_not_pinned() -> None:
    table = rows()
    found = cut(table, np.full(400, 0.5))
    usual = int((~table["pinned"].to_numpy()).sum())
    for by in ("arm", "version"):
        assert sum(each["rows"] for each in found.shown() if each["by"] == by) == usual
    champions = line(found, "arm", "champion")["rows"]
    for by in ("slice", "group"):
        assert sum(each["rows"] for each in found.shown() if each["by"] == by) == champions
    assert {each["value"] for each in found.shown() if each["by"] == "slice"} == {
        "city=a", "city=b", "city=(other)", "city=(missing)",
    }  # fmt: skip


def test_column_that_has_no_slices_or_is_not_logged_is_left_out() -> None:
    found = cut(rows().drop_columns(["features.city"]), np.full(400, 0.5))
    assert {each["by"] for each in found.shown()} == {"arm", "version", "group"}
    assert SLICING.problems == {"secret": "redacted"}
    assert SLICING.columns == ("city", "age")


def test_sums_of_windows_add_up_to_those_of_all_rows_also_from_storage() -> None:
    tables = [rows(seed=seed) for seed in (1, 2)]
    predictions = [np.random.default_rng(seed).random(400) for seed in (1, 2)]
    parts = [cut(*pair) for pair in zip(tables, predictions, strict=True)]
    stored = [Breakdown.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]
    whole = cut(pa.concat_tables(tables), np.concatenate(predictions))
    for ours, theirs in zip(total(stored, "binary").shown(), whole.shown(), strict=True):
        assert ours == pytest.approx(theirs)
    assert total([Breakdown("regression", {})], "binary").shown() == []


def test_prediction_that_is_no_number_counts_as_labelled_and_in_no_metric() -> None:
    table, prediction = rows(), np.full(400, 0.5)
    prediction[:200] = np.nan
    found = line(cut(table, prediction), "arm", "champion")
    assert found["accuracy"] is not None
    nothing = line(cut(table, np.full(400, np.nan)), "arm", "champion")
    assert nothing["labelled"] == found["labelled"] > 0
    assert nothing["loss"] is nothing["accuracy"] is nothing["true_positive_rate"] is None


def test_weights_change_the_mean() -> None:
    table = rows()
    target = table["label"].to_numpy()
    found = cut(table, np.full(400, 0.9), weights=np.where(target == 1, 3.0, 1.0))
    assert line(found, "arm", "champion")["loss"] < line(cut(table, np.full(400, 0.9)), "arm", "champion")["loss"]


def test_other_tasks() -> None:
    numbers = rows(label=lambda rng, n: rng.normal(10, 2, n))
    regression = line(cut(numbers, np.full(400, 11.0), "regression"), "arm", "champion")
    assert regression["mae"] <= regression["rmse"]
    assert 0.5 < regression["mean_error"] < 1.5
    classes = rows(label=lambda rng, n: rng.integers(0, 3, n))
    multiclass = line(cut(classes, np.tile([0.5, 0.3, 0.2], (400, 1)), "multiclass"), "arm", "champion")
    assert 0.2 < multiclass["accuracy"] < 0.5
    assert "true_positive_rate" not in multiclass
