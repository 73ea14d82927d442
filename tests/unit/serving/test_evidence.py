"""Merging replicas' totals: repeats and disorder change nothing, and epochs close behind the slowest replica."""

import json
import random
from itertools import pairwise

from ray_mlops.serving.protocol import ArmName, Tally
from ray_mlops.serving.rollout.evidence import ArmCounts, RouteCounts
from ray_mlops.serving.rollout.tally_book import TallyBook, Watermarks


def tally(epoch: int, arm: ArmName = "candidate", requests: int = 10, errors: int = 0, version: int = 4) -> Tally:
    return Tally("m", version, epoch, arm, 0.25, requests, errors)


def test_tally_book_with_repeated_and_disordered_reports_counts_each_request_once() -> None:
    history = [("a", tally(1, requests=n, errors=n // 5)) for n in range(1, 11)]
    history += [("b", tally(1, requests=n)) for n in range(1, 8)]
    history += [("a", tally(2, "champion", requests=n)) for n in range(1, 5)]
    shuffled = history * 3
    random.Random(5).shuffle(shuffled)
    book = TallyBook()
    for replica, item in shuffled:
        book.add(replica, [item])
    book.close(2)
    assert book.counts() == (RouteCounts(4, 0.25, ArmCounts(17, 2), ArmCounts(4)),)


def test_tally_book_leaves_open_epochs_out_of_the_counts() -> None:
    book = TallyBook()
    book.add("a", [tally(1), tally(2), tally(3)])
    book.close(2)
    assert book.counts()[0].candidate.requests == 20
    assert book.open_epochs() == {3}


def test_tally_book_ignores_what_comes_after_its_epoch_was_closed() -> None:
    book = TallyBook()
    book.add("a", [tally(1)])
    book.close(1)
    book.add("a", [tally(1, requests=11)])
    book.add("b", [tally(1)])
    book.close(2)
    assert book.counts()[0].candidate.requests == 10


def test_tally_book_ignores_earlier_rollouts() -> None:
    book = TallyBook(first_route_version=5)
    book.add("a", [tally(1, version=4), tally(1, version=5, requests=3)])
    book.close(1)
    assert [(c.route_version, c.candidate.requests) for c in book.counts()] == [(5, 3)]


def test_tally_book_recent_takes_newest_epochs_open_ones_too() -> None:
    book = TallyBook(keep_requests=20)
    book.add("a", [tally(1, errors=10), tally(2, errors=4), tally(3, errors=1, requests=5), tally(3, "champion", 99)])
    book.close(2)
    assert book.recent("candidate") == ArmCounts(25, 15)
    book.add("a", [tally(4, requests=15, errors=15)])
    assert book.recent("candidate") == ArmCounts(20, 16)
    assert book.recent("champion", after_route_version=4) == ArmCounts()


def test_tally_book_survives_a_checkpoint() -> None:
    book = TallyBook(2, 20)
    book.add("a", [tally(1), tally(2, "champion"), tally(3)])
    book.close(2)
    restored = TallyBook.from_json(json.loads(json.dumps(book.to_json())))
    for each in (book, restored):
        each.add("a", [tally(1), tally(2, "champion"), tally(3)])  # replicas send all again
        each.close(3)
    assert restored.counts() == book.counts()
    assert restored.recent("candidate") == book.recent("candidate")


def test_watermarks_close_behind_the_slowest_live_replica() -> None:
    marks = Watermarks(deadline_s=10.0)
    assert marks.closed_through(100.0) is None
    marks.report("a", 1, 99.0, 100.0)
    marks.report("b", 1, 95.5, 100.0)
    assert marks.closed_through(100.0) == 95.5
    marks.report("a", 2, 109.0, 109.5)
    assert marks.closed_through(111.0) == 109.0
    assert marks.remove_silent(111.0) == ["b"]


def test_watermarks_never_run_back() -> None:
    marks = Watermarks(10.0)
    seen = []
    for sequence, mark in enumerate([5.0, 7.0, 6.0, 9.0], start=1):
        marks.report("a", sequence, mark, 10.0)
        seen.append(marks.closed_through(10.0))
    assert all(a is not None and b is not None and a <= b for a, b in pairwise(seen))


def test_watermarks_after_a_gap_wait_until_everything_was_sent_again() -> None:
    marks = Watermarks(10.0)
    assert marks.report("a", 1, 5.0, 10.0)
    assert not marks.report("a", 4, 9.0, 10.0)
    assert marks.closed_through(10.0) == 5.0
    assert marks.report("a", 5, 9.0, 10.0)
    assert marks.closed_through(10.0) == 9.0


def test_watermarks_tell_whether_routes_are_applied() -> None:
    marks = Watermarks(10.0)
    marks.report("silent", 1, 5.0, 10.0)
    marks.report("a", 1, 5.0, 10.0, route_version=3)
    assert marks.has_applied(3, 10.0)
    assert not marks.has_applied(4, 10.0)


def failed(epoch: int, version: int = 4, arm: ArmName = "candidate", **kinds: int) -> Tally:
    items = tuple(kinds.items())
    return Tally("m", version, epoch, arm, 0.25, 10, sum(kinds.values()), failures=items)  # type: ignore[arg-type]


def test_tally_book_tells_failures_by_kind_of_the_arm_and_the_routes_that_are_asked_for() -> None:
    book = TallyBook()
    book.add("a", [failed(1, timeout=1), failed(2, version=5, timeout=2, crashed=1)])
    book.add("b", [failed(1, invalid=1), failed(1, arm="champion", error=7)])
    book.add("a", [failed(1, timeout=3)])  # a later report about the same epoch
    book.close(1)
    assert book.failures("candidate") == {"timeout": 5, "invalid": 1, "crashed": 1}
    assert book.failures("candidate", after_route_version=4) == {"timeout": 2, "crashed": 1}
    assert book.failures("champion") == {"error": 7}


def test_tally_book_keeps_failures_over_a_restart_and_reads_checkpoints_without_them() -> None:
    book = TallyBook()
    book.add("a", [failed(1, timeout=3)])
    book.close(1)
    content = json.loads(json.dumps(book.to_json()))
    assert TallyBook.from_json(content).failures("candidate") == {"timeout": 3}
    del content["failures"]
    assert TallyBook.from_json(content).failures("candidate") == {}
