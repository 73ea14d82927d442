"""What a replica counts of logged rows."""

import pickle
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import ColumnContract
from ray_mlops.monitoring.handover import (
    SCORE,
    Reference,
    build_handover,
    count_columns,
    count_violations,
    own_rows,
    top_score,
    without_rows_ahead,
)
from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins
from ray_mlops.statistics.derivations import Derivations
from ray_mlops.statistics.projections import Projection, Projections

HOUR = 3_600_000_000
STAMP = pa.timestamp("us", tz="UTC")
BINS = {
    "x": NumericBins([0.0, 1.0, 2.0]),
    "city": CategoricalBins(("a", "b"), frozenset("ab")),
    SCORE: NumericBins([0.0, 0.5, 1.0]),
}


def rows(**columns: Any) -> pa.Table:
    n = 4
    table = {
        "prediction_id": ["i0", "i1", "i2", "i3"],
        "event_time": pa.array([0, 1, HOUR, HOUR + 1], STAMP),
        "arrival_time": pa.array([0, 1, HOUR, HOUR + 1], STAMP),
        "version": ["1"] * n,
        "pinned": [False] * n,
        "features.x": [0.5, 1.5, None, 9.0],
        "features.city": ["a", "b", None, "z"],
        "prediction": [0.1, 0.9, 0.9, 0.9],
        **columns,
    }
    return pa.table(table)


def test_counts_are_those_of_each_window() -> None:
    sent = build_handover("m", "r", 7, rows(), Reference("ref", BINS, HOUR))
    assert (sent.model, sent.replica, sent.sequence, sent.reference) == ("m", "r", 7, "ref")
    assert sent.counts == {
        0: {
            "x": ColumnCounts.of(BINS["x"], [0.5, 1.5]),
            "city": ColumnCounts.of(BINS["city"], ["a", "b"]),
            SCORE: ColumnCounts.of(BINS[SCORE], [0.1, 0.9]),
        },
        1: {
            "x": ColumnCounts.of(BINS["x"], [None, 9.0]),
            "city": ColumnCounts.of(BINS["city"], [None, "z"]),
            SCORE: ColumnCounts.of(BINS[SCORE], [0.9, 0.9]),
        },
    }
    assert sent.counts[1]["x"].counts.tolist() == [0, 0, 0, 1, 1]
    assert "features.x" not in sent.rows.column_names
    assert {"prediction_id", "event_time", "arrival_time", "prediction"} <= set(sent.rows.column_names)


def test_projections_are_counted_beside_the_columns_they_are_made_of() -> None:
    member = Projection("x", ("city",), {"x": 256}, {"city": {"a": 4096}})
    projections = Projections({"x": (0.5, 1.0)}, (member,))
    bins = {**BINS, member.name: NumericBins([-0.5, 0.5, 1.5, 2.5])}
    sent = build_handover("m", "r", 1, rows(), Reference("ref", bins, HOUR, derivations=Derivations(projections)))
    first, second = (sent.counts[window]["x~city"] for window in (0, 1))
    assert first.counts.tolist() == [0, 0, 2, 0, 0, 0]  # 0.5 as the reference's centre, and 1 for "a"; 1.5 - 0.5
    assert second.counts.tolist() == [0, 1, 0, 0, 1, 0]  # a null counts as the centre; 9 is cut at four deviations
    lacking = Reference("ref", bins, HOUR, derivations=Derivations(projections))
    assert "x~city" not in build_handover("m", "r", 2, rows().drop_columns(["features.city"]), lacking).counts[0]


def test_handover_survives_pickling() -> None:
    sent = build_handover("m", "r", 1, rows(), Reference("ref", BINS, HOUR, {}, "1", HOUR))
    again = pickle.loads(pickle.dumps(sent))
    assert again.counts == sent.counts
    assert again.rows.equals(sent.rows)


def test_column_that_the_log_leaves_out_is_not_counted() -> None:
    assert set(count_columns(rows().drop_columns(["features.x"]), BINS)) == {"city", SCORE}


def test_score_of_a_version_leaves_out_others_and_pinned_requests() -> None:
    table = rows(version=["1", "1", "2", "1"], pinned=[False, True, False, False])
    assert count_columns(table, BINS, "1")[SCORE].counts.tolist() == [0, 1, 1, 0, 0]
    assert count_columns(table, BINS)[SCORE].n == 4
    assert SCORE not in count_columns(table, BINS, "3")
    assert count_columns(table, BINS, "3")["x"].n == 4
    assert own_rows(table, "1")["prediction_id"].to_pylist() == ["i0", "i3"]


def test_multiclass_score_is_the_probability_of_the_most_probable_class() -> None:
    table = rows().drop_columns(["prediction"])
    for name, values in {"a": [0.7, 0.2, 0.1, 0.4], "b": [0.3, 0.8, 0.9, 0.6]}.items():
        table = table.append_column(f"prediction.{name}", pa.array(values))
    assert top_score(table).tolist() == [0.7, 0.8, 0.9, 0.6]
    assert count_columns(table, BINS)[SCORE].n == 4


def test_datetimes_are_counted_in_microseconds_and_booleans_as_text() -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    us = int(moment.timestamp() * 1e6)
    bins = {"t": NumericBins([us - 1.0, us + 1.0]), "b": CategoricalBins(("true",), frozenset({"true"}))}
    table = rows().append_column("features.t", pa.array([moment, None, moment, moment], STAMP))
    table = table.append_column("features.b", pa.array([True, False, None, True]))
    counted = count_columns(table, bins)
    assert counted["t"].counts.tolist() == [0, 3, 0, 1]
    assert counted["b"].counts.tolist() == [2, 0, 1, 1]


def test_rows_ahead_of_their_arrival_are_handed_over_and_not_counted() -> None:
    table = rows(arrival_time=pa.array([0, 1, HOUR, 0], STAMP))
    sent = build_handover("m", "r", 1, table, Reference("ref", BINS, HOUR, max_ahead_us=HOUR))
    assert {window: counts["x"].n for window, counts in sent.counts.items()} == {0: 2, 1: 1}
    assert sent.rows.num_rows == 4
    assert without_rows_ahead(table, HOUR).num_rows == 3
    assert without_rows_ahead(table, HOUR + 1).num_rows == 4
    assert without_rows_ahead(table, None) is table


def test_window_whose_rows_are_all_ahead_is_not_counted() -> None:
    table = rows(arrival_time=pa.array([-HOUR * 9] * 4, STAMP))
    assert build_handover("m", "r", 1, table, Reference("ref", BINS, HOUR, max_ahead_us=1)).counts == {}


@pytest.mark.parametrize(
    ("column", "rule", "violations"),
    [
        ("x", {"min": 1.0}, 1),
        ("x", {"max": 1.0}, 2),
        ("x", {"min": 1.0, "max": 1.0}, 3),
        ("x", {"min": 0.0, "max": 9.0}, 0),
        ("x", {"allowed": [0.5, 9]}, 1),
        ("whole", {"allowed": [1, 2]}, 1),
        ("city", {"allowed": ["a", "b"]}, 1),
        ("city", {"min": 3.0}, 0),
        ("flag", {"allowed": [True]}, 1),
        ("flag", {"allowed": [0, 1]}, 0),
        ("time", {"min": 3.0}, 0),
        ("gone", {"min": 3.0}, 0),
    ],
)
def test_violations_are_values_outside_range_or_domain(column: str, rule: dict[str, Any], violations: int) -> None:
    table = rows().append_column("features.flag", pa.array([True, False, None, True]))
    table = table.append_column("features.whole", pa.array([1.0, 2.0, np.nan, 3.0]))
    table = table.append_column("features.time", pa.array([1, 2, None, 3], STAMP))
    found = count_violations(table, {column: ColumnContract(**rule)})
    assert found == ({column: violations} if violations else {})


def test_violations_are_handed_over_by_window() -> None:
    sent = build_handover("m", "r", 1, rows(), Reference("ref", BINS, HOUR, {"x": ColumnContract(max=1.0)}))
    assert sent.violations == {0: {"x": 1}, 1: {"x": 1}}


def test_columns_that_define_slices_stay_with_the_keys() -> None:
    sent = build_handover("m", "r", 1, rows(), Reference("ref", BINS, HOUR, kept=("city", "nowhere")))
    assert sent.rows["features.city"].to_pylist() == ["a", "b", None, "z"]
    assert "features.x" not in sent.rows.column_names
