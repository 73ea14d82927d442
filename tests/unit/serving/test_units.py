"""Each routing key counts once in a rollout, whichever replicas it comes to and however often."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from ray_mlops.config import GuardsConfig, ShadowConfig
from ray_mlops.errors import StoreError
from ray_mlops.serving.protocol import Arm, ModelRoutes, Tally
from ray_mlops.serving.rollout.evidence import ArmCounts, Observation, UnitCounts
from ray_mlops.serving.rollout.guards import judge
from ray_mlops.serving.rollout.tally_book import TallyBook
from ray_mlops.serving.rollout.units import FAILED, FIRST, FIRST_FAILED, FIRST_OVER_SLO, SLOW, KnownKeys
from ray_mlops.serving.telemetry import Served, Telemetry

ROUTES = ModelRoutes("m", 4, Arm("1", "a", "x"), Arm("2", "b", "y", "isolated", 0.25), rollout_id="r1", slow_ms=5.0)


def served(key: int | None, outcome: Any = "ok", epoch: int = 1, **more: Any) -> Served:
    fields = {"routes": ROUTES, "arm": "candidate", "version": "2", "model_s": 0.001, "latency_s": 0.01, "slo_s": 1.0}
    return Served(**{**fields, "outcome": outcome, "epoch": epoch, "key_hash": key, **more})


def units(book: TallyBook) -> UnitCounts:
    return book.counts()[0].candidate_units


def test_key_is_told_of_when_it_comes_fails_and_is_slow_for_the_first_time() -> None:
    keys = KnownKeys()
    assert keys.note(5, False, False, True) == FIRST | FIRST_OVER_SLO
    assert keys.note(5, False, False, True) == 0
    assert keys.note(5, True, True, False) == FAILED | SLOW
    assert keys.note(5, True, True, False) == 0
    assert keys.note(6, True, False, False) == FIRST | FIRST_FAILED | FAILED


def test_keys_beyond_the_capacity_stay_out() -> None:
    keys = KnownKeys(capacity=2)
    assert [keys.note(key, True, False, False) > 0 for key in (1, 2, 3, 3, 1)] == [True, True, False, False, False]
    assert (len(keys), keys.left_out) == (2, 2)
    assert keys.merge([(4, FIRST), (1, SLOW)]) == [0, SLOW]


def test_of_a_key_that_several_replicas_tell_of_the_first_counts() -> None:
    keys = KnownKeys()
    assert keys.merge([(1, FIRST), (1, FIRST | FIRST_FAILED | FAILED)]) == [FIRST, FAILED]
    assert keys.merge([(1, FAILED), (2, FAILED)]) == [0, 0], "of key 2 the first request is not known"
    assert keys.merge([(2, FIRST)]) == [FIRST]


def test_known_keys_survive_a_checkpoint() -> None:
    keys = KnownKeys()
    keys.merge([(2**64 - 1, FIRST | SLOW), (3, FIRST)])
    restored = KnownKeys.from_json(json.loads(json.dumps(keys.to_json())))
    assert restored.merge([(2**64 - 1, SLOW | FAILED), (3, SLOW)]) == [FAILED, SLOW]


def test_telemetry_counts_keys_within_one_rollout() -> None:
    telemetry = Telemetry("a")
    for key in (7, 7, None, 8):
        telemetry.book(served(key, "error"))
    next_rollout = replace(ROUTES, version=9, rollout_id="r2")
    telemetry.book(served(7, "error", routes=next_rollout))
    first, second = telemetry.changed()
    news = FIRST | FIRST_FAILED | FAILED
    assert (first.requests, first.errors, first.keyed, first.keys) == (4, 4, (3, 3, 0, 0), ((7, news), (8, news)))
    assert second.keys == ((7, news),)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_telemetry_leaves_keys_alone_while_chance_decides_nothing(weight: float) -> None:
    telemetry = Telemetry("a")
    assert ROUTES.candidate is not None
    telemetry.book(served(7, routes=replace(ROUTES, candidate=replace(ROUTES.candidate, weight=weight))))
    assert [tally.keys for tally in telemetry.changed()] == [()]


def test_telemetry_delivers_again_what_was_counted_during_the_delivery() -> None:
    telemetry = Telemetry("a")
    telemetry.book(served(1))
    sent = telemetry.changed()
    telemetry.book(served(2))
    telemetry.delivered(sent)
    assert [tally.requests for tally in telemetry.changed()] == [2]
    telemetry.delivered(telemetry.changed())
    assert telemetry.changed() == []
    telemetry.forget_delivery()
    assert [tally.requests for tally in telemetry.changed()] == [2]


def test_book_counts_a_busy_key_once_over_all_replicas_and_route_versions() -> None:
    replicas = {name: Telemetry(name) for name in "abc"}
    later = replace(ROUTES, version=5)
    for index in range(60):
        for telemetry in replicas.values():
            telemetry.book(served(7, "error", epoch=index // 10, routes=ROUTES if index < 30 else later))
    replicas["b"].book(served(None, "error", epoch=2))
    book = TallyBook()
    for name, telemetry in replicas.items():
        book.add(name, telemetry.changed())
    book.close(9)
    assert [counts.candidate for counts in book.counts()] == [ArmCounts(91, 91), ArmCounts(90, 90)]
    assert [counts.candidate_units for counts in book.counts()] == [UnitCounts(2, 2, 0, 2, 0), UnitCounts()]


def test_book_takes_the_earliest_epoch_whatever_the_order_of_reports() -> None:
    tallies = [
        ("a", Tally("m", 4, 2, "candidate", 0.25, 1, 1, 0, 0, (1, 1, 0, 0), ((7, FIRST | FIRST_FAILED | FAILED),))),
        ("b", Tally("m", 4, 1, "candidate", 0.25, 1, 0, 0, 0, (1, 0, 0, 0), ((7, FIRST),))),
    ]
    for order in (tallies, tallies[::-1]):
        book = TallyBook()
        for replica, tally in order:
            book.add(replica, [tally])
        book.close(2)
        assert units(book) == UnitCounts(units=1, first_errors=0, errors=1)


def test_book_survives_a_checkpoint_with_its_keys() -> None:
    generator = random.Random(3)
    telemetry, book = Telemetry("a"), TallyBook()
    restored = book
    for epoch in range(6):
        for _ in range(40):
            failed = generator.random() < 0.2
            telemetry.book(served(generator.randrange(30), "error" if failed else "ok", epoch))
        for each in (book, restored):
            each.add("a", telemetry.changed())
            each.close(epoch)
        restored = TallyBook.from_json(json.loads(json.dumps(restored.to_json())))
    assert restored.counts() == book.counts()
    assert units(book).units == 30 < book.counts()[0].candidate.requests


def test_book_reads_a_checkpoint_without_units_and_refuses_a_newer_one() -> None:
    old = {
        "first_route_version": 1,
        "keep_requests": 20,
        "closed_through": 3,
        "closed": [[4, 0.25, "candidate", 10, 2, 1, 0]],
        "newest": {"champion": [], "candidate": []},
    }
    book = TallyBook.from_json(old)
    assert units(book) == UnitCounts(10, 2, 0, 2, 1)
    assert book.counts()[0].units is None
    with pytest.raises(StoreError, match="schema_version 99"):
        TallyBook.from_json({**old, "schema_version": 99})


@pytest.mark.parametrize("outcome", ["error", "timeout", "invalid", "crashed"])
def test_every_way_to_fail_breaks_the_hard_limit_at_once_with_epochs_still_open(outcome: str) -> None:
    telemetry, book = Telemetry("a"), TallyBook(keep_requests=20)
    for index in range(20):
        telemetry.book(served(None, outcome if index % 3 else "ok", epoch=index // 5))
        telemetry.book(served(None, outcome, epoch=9, is_counted=False))  # pinned
    book.add("a", telemetry.changed())
    assert book.counts() == (), "no epoch is closed"
    recent = book.recent("candidate")
    assert (recent.requests, recent.errors) == (20, 13)
    verdicts = judge(Observation(recent=recent), GuardsConfig(), ShadowConfig())
    assert [v.verdict for v in verdicts if v.question == "limit"] == ["fail"]
