"""Requests are counted in every slice that they touch, once a unit, over all replicas and restarts."""

import json
from dataclasses import replace
from typing import Any

import numpy as np

from ray_mlops.serving.protocol import Arm, ArmName, ModelRoutes, Tally
from ray_mlops.serving.rollout.evidence import UnitCounts
from ray_mlops.serving.rollout.tally_book import TallyBook
from ray_mlops.serving.slice_counter import WAITING_ROWS, touched_slices
from ray_mlops.serving.slicing import SliceColumn
from ray_mlops.serving.telemetry import Served, Telemetry

SLICES = (
    SliceColumn("carrier", values=("AA", "DL")),
    SliceColumn("nowhere", problem="it is not an input"),
    SliceColumn("distance", edges=(500.0,)),
)
AA, DL, OTHER, MISSING, NEAR, FAR, NO_DISTANCE = range(7)
ROUTES = ModelRoutes(
    "m", 4, Arm("1", "a", "x"), Arm("2", "b", "y", "isolated", 0.25), rollout_id="r1", slow_ms=5.0, slices=SLICES
)


def served(
    *rows: dict[str, Any], key: int | None = None, outcome: Any = "ok", arm: ArmName = "candidate", **more: Any
) -> Served:
    fields = {"routes": ROUTES, "version": "2", "epoch": 1, "model_s": 0.001, "latency_s": 0.01, "slo_s": 1.0}
    return Served(**{**fields, "arm": arm, "outcome": outcome, "key_hash": key, "rows": rows, **more})


def row(carrier: Any = "AA", distance: Any = 100.0) -> dict[str, Any]:
    return {"carrier": carrier, "distance": distance}


def counted(book: TallyBook, number: int) -> tuple[UnitCounts, UnitCounts] | None:
    found = book.slice_counts().get(number)
    return found[0].units if found else None


def closed(*tallies: tuple[str, list[Tally]]) -> TallyBook:
    book = TallyBook()
    for replica, sent in tallies:
        book.add(replica, sent)
    book.close(99)
    return book


def test_request_counts_once_in_each_slice_that_its_rows_touch() -> None:
    requests = [[row("AA"), row("AA", 900), row("ZZ")], [row(None, None)], []]
    index, numbers = touched_slices(SLICES, requests)
    assert list(zip(index.tolist(), numbers.tolist(), strict=True)) == [
        *((0, AA), (0, OTHER), (0, NEAR), (0, FAR)),
        *((1, MISSING), (1, NO_DISTANCE)),
    ]
    index, numbers = touched_slices(SLICES, [[row("AA")], [], [row("DL", 900)]])
    assert list(zip(index.tolist(), numbers.tolist(), strict=True)) == [(0, AA), (2, DL), (0, NEAR), (2, FAR)]


def test_requests_without_a_key_are_units_by_arm() -> None:
    telemetry = Telemetry("a")
    telemetry.book(served(row("AA"), outcome="error"))
    telemetry.book(served(row("AA"), row("DL"), model_s=0.01))
    telemetry.book(served(row("DL"), arm="champion"))
    book = closed(("a", telemetry.changed()))
    assert counted(book, AA) == (UnitCounts(units=2, errors=1, slow=1), UnitCounts())
    assert counted(book, DL) == (UnitCounts(units=1, slow=1), UnitCounts(units=1))
    assert counted(book, OTHER) is None


def test_key_counts_once_in_a_slice_over_replicas_epochs_and_routes() -> None:
    replicas = {name: Telemetry(name) for name in "abc"}
    later = replace(ROUTES, version=5)
    for index in range(60):
        for telemetry in replicas.values():
            carrier = "AA" if index < 40 else "DL"
            how = {"epoch": index // 10, "routes": ROUTES if index < 30 else later}
            telemetry.book(served(row(carrier), key=7, outcome="error" if index >= 10 else "ok", **how))
    book = closed(*((name, telemetry.changed()) for name, telemetry in replicas.items()))
    found = book.slice_counts()
    assert [(c.route_version, c.units) for c in found[AA]] == [(4, (UnitCounts(units=1, errors=1), UnitCounts()))]
    assert [(c.route_version, c.units) for c in found[DL]] == [(5, (UnitCounts(units=1, errors=1), UnitCounts()))]


def test_failed_over_and_crashed_requests_count_pinned_ones_do_not() -> None:
    telemetry = Telemetry("a")
    for outcome in ("crashed", "timeout", "invalid"):
        telemetry.book(served(row(), outcome=outcome))
    telemetry.book(served(row(), outcome="error", is_counted=False))
    assert counted(closed(("a", telemetry.changed())), AA) == (UnitCounts(units=3, errors=3), UnitCounts())


def test_nothing_is_counted_while_chance_decides_nothing_or_without_slices() -> None:
    assert ROUTES.candidate is not None
    for routes in (replace(ROUTES, candidate=replace(ROUTES.candidate, weight=0.0)), replace(ROUTES, slices=())):
        telemetry = Telemetry("a")
        telemetry.book(served(row(), routes=routes))
        (tally,) = telemetry.changed()
        assert (tally.slices, tally.slice_keys) == ((), ())


def test_repeated_reports_change_nothing_and_a_lost_one_is_made_good() -> None:
    telemetry = Telemetry("a")
    telemetry.book(served(row(), key=1, outcome="error"))
    first = telemetry.changed()
    telemetry.book(served(row(), key=2))
    telemetry.book(served(row()))
    telemetry.delivered(first)
    second = telemetry.changed()
    telemetry.forget_delivery()
    book = closed(("a", second), ("a", first), ("a", telemetry.changed()))
    assert counted(book, AA) == (UnitCounts(units=3, errors=1), UnitCounts())


def test_rows_that_wait_are_bounded() -> None:
    telemetry = Telemetry("a")
    for _ in range(3 * WAITING_ROWS):
        telemetry.book(served(row()))
        assert telemetry._slices._num_rows < WAITING_ROWS
    assert counted(closed(("a", telemetry.changed())), AA) == (UnitCounts(units=3 * WAITING_ROWS), UnitCounts())


def test_models_and_route_versions_that_wait_together_are_kept_apart() -> None:
    telemetry = Telemetry("a")
    other = replace(ROUTES, model="n", slices=(SliceColumn("carrier", values=("DL",)),))
    for routes in (ROUTES, other, replace(ROUTES, version=5), ROUTES):
        telemetry.book(served(row("DL"), routes=routes))
    sent = telemetry.changed()
    assert {(t.model, t.route_version): t.slices for t in sent} == {
        ("m", 4): ((DL, 2, 0, 0), (NEAR, 2, 0, 0)),
        ("n", 4): ((0, 1, 0, 0),),
        ("m", 5): ((DL, 1, 0, 0), (NEAR, 1, 0, 0)),
    }


def test_next_rollout_begins_with_new_keys() -> None:
    telemetry = Telemetry("a")
    telemetry.book(served(row(), key=7))
    telemetry.book(served(row(), key=7, routes=replace(ROUTES, version=9, rollout_id="r2")))
    assert [len(tally.slice_keys) for tally in telemetry.changed()] == [2, 2]


def test_book_survives_a_checkpoint_with_its_slices() -> None:
    generator, telemetry, book = np.random.default_rng(3), Telemetry("a"), TallyBook()
    restored = book
    for epoch in range(6):
        for _ in range(50):
            key = int(generator.integers(30)) if generator.random() < 0.7 else None
            outcome = "error" if generator.random() < 0.2 else "ok"
            carrier = generator.choice(["AA", "DL", "ZZ"])
            telemetry.book(served(row(carrier), key=key, outcome=outcome, epoch=epoch))
        for each in (book, restored):
            each.add("a", telemetry.changed())
            each.close(epoch)
        restored = TallyBook.from_json(json.loads(json.dumps(restored.to_json())))
    assert restored.slice_counts() == book.slice_counts() != {}


def test_book_reads_a_checkpoint_without_slices() -> None:
    content = TallyBook().to_json()
    old = {name: value for name, value in content.items() if not name.startswith("slice")}
    assert TallyBook.from_json({**old, "schema_version": 2}).slice_counts() == {}
