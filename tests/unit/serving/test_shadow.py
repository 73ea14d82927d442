"""Scoring logged rows and pairing them: only rows that count, each once, by request."""

from math import log
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.errors import StoreError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.rollout.shadow import (
    SLOW_FACTOR,
    SLOW_MARGIN_MS,
    BundleFacts,
    aligned,
    champion_slow_ms,
    gather_losses,
)
from ray_mlops.serving.rollout.shadow_log import LoggedRows, ShadowLog
from ray_mlops.statistics.betting import log_e_difference

FACTS = BundleFacts("regression", (), 1.0)
AFTER_US = 1_000
ROW: dict[str, Any] = {
    "prediction_id": "p1",
    "request_id": "r1",
    "window": 3,
    "event_time": 2_000,
    "arm": "champion",
    "version": "1",
    "route_version": 5,
    "pinned": False,
    "weight": 0.75,
    "label": 1.0,
    "prediction": 0.5,
    "features.x": 7.0,
    "model_time_us": 900,
}
SCHEMA = pa.schema(
    {
        **dict.fromkeys(("prediction_id", "request_id", "arm", "version"), pa.string()),
        **dict.fromkeys(("window", "route_version", "model_time_us"), pa.int64()),
        **dict.fromkeys(("weight", "label", "prediction", "features.x"), pa.float64()),
        "event_time": pa.timestamp("us", tz="UTC"),
        "pinned": pa.bool_(),
    }
)


def table(*changes: dict[str, Any]) -> pa.Table:
    rows = [{**ROW, "prediction_id": f"p{i}", "request_id": f"r{i}", **change} for i, change in enumerate(changes)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path))


def shadow(files: Files, max_rows: int = 100) -> ShadowLog:
    return ShadowLog(files, "m", "m-v2", "1", AFTER_US, max_rows)


def gather(labelled: pa.Table, scored: dict[str, Any], weights: dict[int, float] | None = None) -> Any:
    values = {name: np.float64(value) for name, value in scored.items()}
    return gather_losses(labelled, values, FACTS, champion="1", after_us=AFTER_US, weights=weights or {})  # type: ignore[arg-type]


def test_rows_are_the_champions_later_and_not_pinned(files: Files) -> None:
    others = ({"arm": "candidate"}, {"version": "0"}, {"event_time": AFTER_US}, {"pinned": True})
    files.write_table("predictions/m/day=1970-01-01/a-00000001.parquet", table({}, *others, {"features.x": 8.0}))
    log = shadow(files)
    taken, rows = log.read(log.unread())
    assert taken == ["predictions/m/day=1970-01-01/a-00000001.parquet"]
    assert (rows.ids.to_pylist(), rows.inputs.to_pydict()) == (["p0", "p5"], {"x": [7.0, 8.0]})
    assert rows.answers.to_pydict() == {"prediction": [0.5, 0.5]}


def keep(log: ShadowLog, rows: LoggedRows, values: Any, champion: Any, names: list[str] | None = None) -> None:
    log.keep(names or ["a"], rows, np.array(values), np.array(champion))


def test_scored_files_are_not_read_again_even_by_a_successor(files: Files) -> None:
    files.write_table("predictions/m/day=1970-01-01/a-00000001.parquet", table({}, {}))
    log = shadow(files)
    taken, rows = log.read(log.unread())
    keep(log, rows, [0.1, 0.2], [0.5, 0.5], taken)
    successor = shadow(files)
    files.write_table("predictions/m/day=1970-01-01/a-00000002.parquet", table({}))
    for each in (log, successor):
        assert each.unread() == ["predictions/m/day=1970-01-01/a-00000002.parquet"]
        assert each.predictions == {"p0": 0.1, "p1": 0.2}


def test_scores_of_several_classes_survive(files: Files) -> None:
    log, theirs = shadow(files), [[0.1, 0.9], [0.1, 0.9]]
    keep(log, LoggedRows.of(table({}, {})), [[0.1, 0.9], [0.6, 0.4]], theirs)
    successor, facts = shadow(files), BundleFacts("multiclass", ("a", "b"))
    assert {k: v.tolist() for k, v in successor.predictions.items()} == {"p0": [0.1, 0.9], "p1": [0.6, 0.4]}
    found = successor.disagreement((facts, facts))
    assert (found.rows, found.decisions_differ, found.mean_difference) == (2, 0.5, None)
    assert found.mean_by_class == pytest.approx({"a": 0.25, "b": -0.25})
    assert found.quantiles["1"] == pytest.approx(0.5)


def test_shadow_scores_no_more_rows_than_it_may(files: Files) -> None:
    files.write_table("predictions/m/day=1970-01-01/a-00000001.parquet", table({}, {}, {}))
    log = shadow(files, max_rows=2)
    taken, rows = log.read(log.unread())
    keep(log, rows, np.zeros(2), np.zeros(2), taken)
    assert (len(rows), log.is_full) == (2, True)


def test_file_that_was_deleted_has_no_rows(files: Files) -> None:
    taken, rows = shadow(files).read(["predictions/m/day=1970-01-01/gone.parquet"])
    assert (len(taken), len(rows)) == (1, 0)


def test_scores_of_an_earlier_release_still_pair_but_tell_no_disagreement(files: Files) -> None:
    old = pa.table({"prediction_id": ["p0"], "0": [0.1]}).replace_schema_metadata({"ray_mlops.sources": '["a"]'})
    files.write_table("predictions-shadow/m/m-v2/00000000.parquet", old)
    log = shadow(files)
    assert log.predictions == {"p0": 0.1}
    assert log.disagreement((FACTS, FACTS)).rows == 0


def test_scores_of_a_newer_release_are_refused(files: Files) -> None:
    newer = pa.table({"prediction_id": ["p0"], "0": [0.1]})
    metadata = {"ray_mlops.sources": '["a"]', "ray_mlops.schema_version": "9"}
    files.write_table("predictions-shadow/m/m-v2/00000000.parquet", newer.replace_schema_metadata(metadata))
    with pytest.raises(StoreError, match="schema_version 9"):
        shadow(files)


def test_rows_that_differ_most_are_shown_with_inputs_also_after_a_restart(files: Files) -> None:
    name = "predictions/m/day=1970-01-01/a-00000001.parquet"
    files.write_table(name, table(*({"features.x": float(i), "prediction": 0.5} for i in range(20))))
    log = shadow(files)
    taken, rows = log.read(log.unread())
    keep(log, rows, 0.5 + np.arange(20) / 40, np.full(20, 0.5), taken)
    for each in (log, shadow(files)):
        found = each.disagreement((FACTS, FACTS))
        assert [row.prediction_id for row in found.most] == ["p19", "p18", "p17", "p16", "p15"]
        assert found.most[0].inputs == {"x": 19.0}
        assert (found.most[0].champion, found.most[0].other) == (0.5, 0.975)
        assert found.mean_difference == pytest.approx(np.arange(20).mean() / 40)
    files.delete(name)
    forgotten = shadow(files).disagreement((FACTS, FACTS))
    assert (forgotten.most[0].prediction_id, forgotten.most[0].inputs) == ("p19", None)


def test_row_that_was_forgotten_is_shown_without_inputs_at_once(files: Files) -> None:
    name = "predictions/m/day=1970-01-01/a-00000001.parquet"
    files.write_table(name, table({}, {"features.x": 8.0}))
    log = shadow(files)
    taken, rows = log.read(log.unread())
    keep(log, rows, [0.9, 0.7], [0.5, 0.5], taken)
    assert [row.inputs for row in log.disagreement((FACTS, FACTS)).most] == [{"x": 7.0}, {"x": 8.0}]
    files.write_table(name, table({}, {"features.x": 8.0}).slice(1))
    assert [row.inputs for row in log.disagreement((FACTS, FACTS)).most] == [None, {"x": 8.0}]


def test_row_whose_file_is_compacted_while_it_is_looked_for_has_no_inputs_yet(files: Files) -> None:
    name = "predictions/m/day=1970-01-01/a-00000001.parquet"
    files.write_table(name, table({}))
    log = shadow(files)
    taken, rows = log.read(log.unread())
    keep(log, rows, [0.9], [0.5], taken)
    log._live = lambda: [name]  # type: ignore[method-assign]
    files.delete(name)
    assert log.disagreement((FACTS, FACTS)).most[0].inputs is None


def test_rows_that_are_taken_up_while_others_are_shown_do_no_harm(files: Files, monkeypatch: Any) -> None:
    """Both happen in threads: here the second comes wherever the first reads a file or computes."""
    name = "predictions/m/day=1970-01-01/a-00000001.parquet"
    files.write_table(name, table({}))
    log = shadow(files)
    taken, rows = log.read(log.unread())
    keep(log, rows, [0.6], [0.5], taken)
    numbers = iter(range(10, 100))

    def meddle(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            worse = LoggedRows.of(table({"prediction_id": f"p{next(numbers)}"}))
            thread = Thread(target=keep, args=(log, worse, [0.9], [0.5], taken))
            thread.start()
            thread.join(30.0)
            assert not thread.is_alive(), "a lock is held while files are read"
            return function(*args, **options)

        return call

    monkeypatch.setattr(np, "concatenate", meddle(np.concatenate))
    monkeypatch.setattr(files, "read_table", meddle(files.read_table))
    log.disagreement((FACTS, FACTS))
    monkeypatch.undo()
    found = log.disagreement((FACTS, FACTS))
    assert found.rows == len(log.predictions)
    assert [row.difference for row in found.most][:2] == pytest.approx([0.4, 0.4])


def test_column_that_was_a_number_and_then_text_is_scored_in_two_calls(files: Files) -> None:
    words = table({"prediction_id": "q"})
    place = words.column_names.index("features.x")
    words = words.set_column(place, "features.x", pa.array(["many"]))
    other = words.set_column(words.column_names.index("version"), "version", pa.array(["0"]))
    for number, each in enumerate((other, table({}), words), start=1):
        files.write_table(f"predictions/m/day=1970-01-01/a-{number:08d}.parquet", each)
    log = shadow(files)
    names, values = log.unread(), []
    while names:
        taken, rows = log.read(names)
        values.append(rows.inputs["x"].to_pylist())
        names = names[len(taken) :]
    assert values == [[7.0], ["many"]]


def test_row_that_was_answered_twice_counts_once(files: Files) -> None:
    log = shadow(files)
    keep(log, LoggedRows.of(table({}, {})), [0.9, 0.9], [0.5, 0.5])
    keep(log, LoggedRows.of(table({}, {"prediction_id": "p7"})), [0.1, 0.5], [0.5, 0.5])
    found = log.disagreement((FACTS, FACTS))
    assert (found.rows, log.predictions["p0"]) == (3, 0.9)


def test_pairs_are_means_over_a_requests_rows() -> None:
    labelled = table({"request_id": "b"}, {"request_id": "a"}, {"request_id": "b"}, {"request_id": "c"})
    found = gather(labelled, {"p0": 1.0, "p1": 0.0, "p2": 0.5})
    assert found.paired.tolist() == [-0.25, 0.5]  # b: (-0.5 + 0) / 2; a: 1 - 0.5; c was not scored


def test_split_losses_know_the_assigned_arm_and_the_weight() -> None:
    labelled = table(
        {"route_version": 6, "label": 0.6},
        {"route_version": 6, "label": 0.7, "arm": "candidate", "version": "2", "weight": 0.25},
        {"route_version": 6, "label": 0.9, "weight": 0.25},  # failed over: the champion answered for the candidate
        {"route_version": 6, "pinned": True},
        {"route_version": 5},
    )
    found = gather(labelled, {}, {6: 0.25, 5: 0.0})
    assert found.losses.tolist() == pytest.approx([0.1, 0.2, 0.4])
    assert found.is_candidate.tolist() == [False, True, True]
    assert found.weights.tolist() == [0.25] * 3
    assert found.scores.tolist() == [0.5] * 3


def test_no_labels_are_no_evidence() -> None:
    found = gather(table(), {})
    assert (len(found.paired), len(found.losses)) == (0, 0)


def test_classes_are_put_in_the_champions_order() -> None:
    values = np.array([[0.1, 0.2, 0.7]])
    assert aligned(values, ("a", "b", "c"), ("c", "a", "d")).tolist() == [[0.7, 0.1, 0.0]]


def test_multiclass_losses_take_the_probabilities_of_all_classes() -> None:
    rows = (
        table({"label": 1.0})
        .append_column("prediction.a", pa.array([0.5]))
        .append_column("prediction.b", pa.array([0.5]))
    )
    facts = BundleFacts("multiclass", ("a", "b"))
    scored = {"p0": np.array([0.0, 1.0])}
    found = gather_losses(rows, scored, facts, champion="1", after_us=AFTER_US, weights={5: 0.25})
    assert found.paired.tolist() == [-0.25]
    assert len(found.scores) == 0


def test_latency_threshold_needs_enough_of_the_champions_requests(files: Files) -> None:
    few = table(*({"model_time_us": 100 * i} for i in range(99)))
    files.write_table("predictions/m/day=1970-01-01/a-00000001.parquet", few)
    assert champion_slow_ms(files, "m", "1", 0.95) is None
    files.write_table(
        "predictions/m/day=1970-01-02/a-00000002.parquet", table({"request_id": "z", "model_time_us": 9900})
    )
    assert champion_slow_ms(files, "m", "1", 0.95) == pytest.approx(SLOW_FACTOR * 9.405 + SLOW_MARGIN_MS)


KEYED = SCHEMA.append(pa.field("routing_key_hash", pa.uint64()))


def keyed(*changes: dict[str, Any]) -> pa.Table:
    rows = [{**ROW, "prediction_id": f"p{i}", "request_id": f"r{i}", **change} for i, change in enumerate(changes)]
    return pa.Table.from_pylist(rows, schema=KEYED)


def test_losses_of_one_user_count_once_as_the_mean_of_the_first_window() -> None:
    user = {"routing_key_hash": 2**64 - 1}
    rows = keyed(user, {"routing_key_hash": 5}, {**user, "prediction": 0.9}, {**user, "window": 4}, {})
    found = gather(rows, {"p0": 0.3, "p2": 0.3, "p3": 1.0, "p4": 1.0}, {5: 0.25})
    assert found.paired.tolist() == pytest.approx([((0.7 - 0.5) + (0.7 - 0.1)) / 2, -0.5])
    assert found.losses.tolist() == pytest.approx([0.3, 0.5, 0.5])
    assert found.scores.tolist() == pytest.approx([0.7, 0.5, 0.5])


def test_user_who_moves_to_the_candidate_stays_where_it_was_first() -> None:
    user = {"routing_key_hash": 9, "window": 3}
    moved = {**user, "arm": "candidate", "version": "2", "route_version": 6, "weight": 0.5, "prediction": 0.0}
    found = gather(keyed(user, moved, {**moved, "window": 4}), {}, {5: 0.25, 6: 0.5})
    assert (found.losses.tolist(), found.is_candidate.tolist(), found.weights.tolist()) == ([0.5], [False], [0.25])


def test_loss_guard_is_not_moved_by_one_busy_user() -> None:
    on_candidate = {"arm": "candidate", "version": "2", "weight": 0.25}
    busy = {**on_candidate, "routing_key_hash": 1, "prediction": 0.0}
    others = [
        {"routing_key_hash": 10 + i, "prediction": 0.9, **(on_candidate if i % 4 == 0 else {})} for i in range(200)
    ]
    rows = [row for other in others for row in (other, busy)]
    found = gather(keyed(*rows), {}, {5: 0.25})
    assert len(found.losses) == 201
    assert log_e_difference(found.losses, found.is_candidate, found.weights) < 1.0
    by_request = gather(keyed(*rows).drop_columns(["routing_key_hash"]), {}, {5: 0.25})
    assert log_e_difference(by_request.losses, by_request.is_candidate, by_request.weights) > log(4 / 0.05)
