"""Which label counts, at any moment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import DataError
from ray_mlops.serving.label_log import LABEL_SCHEMA
from ray_mlops.serving.labels_in_force import known_targets, labels_in_force

Row = tuple[str, Any, int | None, int, bool]


def table(rows: Sequence[Row]) -> pa.Table:
    encoded = [(name, orjson.dumps(label).decode(), *rest) for name, label, *rest in rows]
    return pa.Table.from_pylist([dict(zip(LABEL_SCHEMA.names, row, strict=True)) for row in encoded], LABEL_SCHEMA)


def in_force(rows: Sequence[Row], as_of_us: int | None = None) -> dict[str, Any]:
    found = labels_in_force(table(rows), as_of_us)
    names = found["id"].to_pylist()
    assert len(set(names)) == len(names)
    return dict(zip(names, map(orjson.loads, found["label"].to_pylist()), strict=True))


def test_first_label_stands_until_a_correction_comes() -> None:
    rows: list[Row] = [("a", 1, None, 1, False), ("a", 2, None, 2, False), ("b", 5, None, 3, False)]
    assert in_force(rows) == {"a": 1, "b": 5}
    assert in_force([*rows, ("a", 3, None, 4, True), ("a", 4, None, 5, False)]) == {"a": 3, "b": 5}


def test_newest_correction_wins_and_of_one_moment_the_last_in_the_log() -> None:
    rows: list[Row] = [("a", 1, None, 1, True), ("a", 2, None, 2, True), ("a", 3, None, 2, True)]
    assert in_force(rows) == {"a": 3}


def test_correction_is_not_known_before_its_time() -> None:
    rows: list[Row] = [("a", 1, 10, 50, False), ("a", 2, 20, 60, True), ("a", 3, None, 70, True)]
    assert [in_force(rows, moment).get("a") for moment in (9, 10, 19, 20, 69, 70)] == [None, 1, 1, 2, 2, 3]


def test_any_stream_agrees_with_a_loop_over_it() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        count = int(rng.integers(0, 30))
        rows: list[Row] = [
            (f"i{rng.integers(6)}", place, None if rng.random() < 0.5 else int(rng.integers(40)), place // 3, flag)
            for place, flag in enumerate(rng.random(count) < 0.3)
        ]
        rows = [(*row[:4], bool(row[4])) for row in rows]
        as_of = int(rng.integers(40))
        expected: dict[str, tuple[Any, bool]] = {}
        for name, label, time, arrival, is_correction in rows:
            if (arrival if time is None else time) <= as_of and (is_correction or name not in expected):
                expected[name] = (label, is_correction)
        assert in_force(rows, as_of) == {name: label for name, (label, _) in expected.items()}


def test_targets_are_encoded_and_nan_where_nothing_is_known() -> None:
    labels = table([("a", True, None, 1, False), ("b", 0, None, 2, False), ("a", "false", None, 3, True)])
    ids = pa.chunked_array([["b", "x"], ["a", "b"]])
    encoder = TargetEncoder("late", "binary", (False, True))
    assert known_targets(ids, labels, encoder).tolist() == pytest.approx([0.0, np.nan, 0.0, 0.0], nan_ok=True)
    assert known_targets(ids, labels, encoder, 2).tolist() == pytest.approx([0.0, np.nan, 1.0, 0.0], nan_ok=True)
    assert np.isnan(known_targets(ids, labels, encoder, 0)).all()


def test_only_labels_that_join_must_fit_the_target() -> None:
    labels, encoder = table([("a", "x", None, 1, False), ("b", 1, None, 1, False)]), TargetEncoder("y", "regression")
    assert known_targets(pa.chunked_array([["b"]]), labels, encoder).tolist() == [1.0]
    with pytest.raises(DataError, match="expected a number, got 'x'"):
        known_targets(pa.chunked_array([["a"]]), labels, encoder)
