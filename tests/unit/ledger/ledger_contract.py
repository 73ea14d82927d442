"""What a ledger must do on any database: subclassed for SQLite here, for PostgreSQL in the integration tests."""

import math
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from ray_mlops.errors import LedgerConflictError, LedgerError
from ray_mlops.ledger import Ledger, database, schema
from ray_mlops.ledger.event import GENESIS_HASH, hash_event

ROOT = Path(__file__).resolve().parents[3]

WRITER = """
import sys
from ray_mlops.errors import LedgerConflictError
from ray_mlops.ledger import Ledger
url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
ledger = Ledger(url)
sys.stdin.readline()
for number in range(count):
    try:
        ledger.append("m/race", "claimed", f"race-{name}-{number}", {"by": name}, expect_version=number)
    except LedgerConflictError:
        pass
    event = ledger.append("m/x", "wrote", f"{name}-{number}", {"by": name, "number": number})
    print(event.seq, flush=True)
"""


def start_writer(url: str, name: str, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, url, name, str(count)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def execute(url: str, *statements: str) -> None:
    """Change the database behind the ledger's back."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
    finally:
        engine.dispose()


def drop_triggers(url: str) -> None:
    table = "" if url.startswith("sqlite") else " ON events"
    execute(url, f"DROP TRIGGER events_no_update{table}", f"DROP TRIGGER events_no_delete{table}")


def write_five(ledger: Ledger) -> None:
    for number in range(5):
        ledger.append("m/x" if number % 2 else "m/y", "counted", f"k{number}", {"n": number}, time=1000.5 + number)


class LedgerContract:
    @pytest.fixture
    def ledger(self, url: str) -> Any:
        ledger = Ledger(url)
        yield ledger
        ledger.close()

    def test_append_new_key_is_read_back_equal(self, ledger: Ledger) -> None:
        first = ledger.append("m/x", "started", "a", {"n": 1}, event_time=123, time=5.25)
        second = ledger.append("m/y", "started", "b", {})
        third = ledger.append("m/x", "ended", "c", {"list": [1, None]})
        assert ledger.read() == [first, second, third]
        assert (first.seq, first.version, first.event_time, first.time) == (1, 1, 123, 5.25)
        assert (second.seq, second.version, third.seq, third.version) == (2, 1, 3, 2)
        assert [first.prev_hash, second.prev_hash, third.prev_hash] == [GENESIS_HASH, first.hash, second.hash]
        assert ledger.get("b") == second
        assert ledger.get("z") is None

    def test_append_same_key_returns_stored_event(self, ledger: Ledger) -> None:
        first = ledger.append("m/x", "started", "a", {"n": 1}, expect_version=0)
        again = ledger.append("m/x", "other", "a", {"n": 2}, expect_version=0)
        assert again == first
        assert ledger.read() == [first]

    def test_append_key_of_another_stream_is_refused(self, ledger: Ledger) -> None:
        ledger.append("m/x", "started", "a", {})
        with pytest.raises(LedgerError, match="'m/x'"):
            ledger.append("m/y", "started", "a", {})

    def test_append_unexpected_version_conflicts(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerConflictError, match="expected version 1, the stream is at 0"):
            ledger.append("m/x", "k", "a", {}, expect_version=1)
        ledger.append("m/x", "k", "a", {}, expect_version=0)
        ledger.append("m/other", "k", "o", {})
        ledger.append("m/x", "k", "b", {}, expect_version=1)
        for version in (0, 1, 3):
            with pytest.raises(LedgerConflictError):
                ledger.append("m/x", "k", "c", {}, expect_version=version)
        assert ledger.last_version("m/x") == 2

    def test_payload_survives_to_the_bit(self, ledger: Ledger) -> None:
        payload = {
            "text": "é ☃ 🙂 \u0000 \\ \"'",
            "numbers": [0.1, -0.0, 1e308, 5e-324, 2**70, True, None],
            "numpy": [np.int64(3), np.float32(0.1), np.bool_(True), np.float64(0.2), np.str_("s")],
            "": {"b": (), "a": {"deep": [[1]]}},
        }
        event = ledger.append("m/x", "k", "a", payload)
        assert event.payload["numpy"] == [3, float(np.float32(0.1)), True, 0.2, "s"]
        assert [type(value) for value in event.payload["numpy"]] == [int, float, bool, float, str]
        stored = Ledger(ledger.url).get("a")
        assert stored == event
        assert repr(stored.payload["numbers"]) == repr(payload["numbers"])
        assert ledger.verify().ok

    @pytest.mark.parametrize(
        ("value", "named"),
        [
            (math.nan, "nan"),
            (math.inf, "inf"),
            (np.float32("nan"), "nan"),
            (datetime(2024, 1, 1), "datetime"),
            (np.datetime64("2024-01-01"), "date"),
            (b"bytes", "bytes"),
            ({1, 2}, "set"),
            ({1: "a"}, "int"),
            (np.zeros(2), "ndarray"),
            (Path("x"), "Path"),
        ],
    )
    def test_payload_not_json_is_refused_with_its_place(self, ledger: Ledger, value: Any, named: str) -> None:
        with pytest.raises(LedgerError, match=rf"payload\.metrics\[1\].*{named}"):
            ledger.append("m/x", "k", "a", {"metrics": [0.5, value]})
        assert ledger.read() == []

    @pytest.mark.parametrize(
        "arguments",
        [
            {"stream": ""},
            {"kind": "two\nlines"},
            {"key": "x" * 501},
            {"payload": [1]},
            {"event_time": 1.5},
            {"time": math.nan},
        ],
    )
    def test_append_bad_argument_is_refused(self, ledger: Ledger, arguments: dict[str, Any]) -> None:
        with pytest.raises(LedgerError, match=next(iter(arguments))):
            ledger.append(**{"stream": "m/x", "kind": "k", "key": "a", "payload": {}, **arguments})

    def test_read_filters(self, ledger: Ledger) -> None:
        for stream, kind in (
            ("a_b/x", "k"),
            ("axb/x", "k"),
            ("A_B/x", "k"),
            ("a_b/y", "l"),
            ("a_b", "k"),
            ("a_c", "k"),
        ):
            ledger.append(stream, kind, f"{stream}-{kind}", {})
        ledger.append("a_b/x", "l", "last", {})

        def seqs(*arguments: Any, **options: Any) -> list[int]:
            return [event.seq for event in ledger.read(*arguments, **options)]

        assert seqs("a_b/x") == [1, 7]
        assert seqs(prefix="a_b/") == [1, 4, 7]
        assert seqs(prefix="a_b/", kind="l") == [4, 7]
        assert seqs("a_b/x", kind="k") == [1]
        assert seqs(after_seq=4) == [5, 6, 7]
        assert seqs(limit=2) == [1, 2]
        assert seqs(newest_first=True, limit=2, after_seq=1) == [7, 6]
        assert seqs("nothing") == []
        assert ledger.last("a_b/x").seq == 7
        assert ledger.last("a_b/x", "k").seq == 1
        assert ledger.last("a_b/x", "m") is None
        assert ledger.last_version("nothing") == 0
        assert [event.seq for event in ledger.newest_by_stream("k", "l")] == [2, 3, 4, 5, 6, 7]
        assert [event.seq for event in ledger.newest_by_stream("k")] == [1, 2, 3, 5, 6]

    def test_verify_untouched_chain_is_ok(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        assert ledger.verify().events == 0
        write_five(ledger)
        monkeypatch.setattr("ray_mlops.ledger.chain._BATCH", 2)
        report = ledger.verify()
        assert (report.ok, report.events, report.broken_seq) == (True, 5, None)
        assert report.head == ledger.get("k4").hash

    @pytest.mark.parametrize(
        ("statement", "broken_seq", "reason"),
        [
            ("UPDATE events SET payload = '{\"n\":9}' WHERE seq = 3", 3, "changed"),
            ("UPDATE events SET payload = '{\"n\": 2}' WHERE seq = 3", 3, "changed"),
            ("UPDATE events SET time = 1 WHERE seq = 1", 1, "changed"),
            ("UPDATE events SET event_time = 1 WHERE seq = 5", 5, "changed"),
            ("UPDATE events SET kind = 'x' WHERE seq = 2", 2, "changed"),
            ("UPDATE events SET key = 'x' WHERE seq = 2", 2, "changed"),
            ("UPDATE events SET stream = 'm/z' WHERE seq = 2", 2, "changed"),
            ("UPDATE events SET hash = 'x' WHERE seq = 2", 2, "changed"),
            ("UPDATE events SET prev_hash = 'x' WHERE seq = 2", 2, "before it"),
            ("DELETE FROM events WHERE seq = 2", 3, "missing"),
            ("DELETE FROM events WHERE seq = 1", 2, "missing"),
            ("UPDATE events SET seq = 0 WHERE seq = 5", 0, "missing"),
        ],
    )
    def test_verify_tampered_chain_names_the_event(
        self, ledger: Ledger, url: str, statement: str, broken_seq: int, reason: str
    ) -> None:
        write_five(ledger)
        drop_triggers(url)
        execute(url, statement.replace(":", r"\:"))
        report = ledger.verify()
        assert not report.ok
        assert report.broken_seq == broken_seq
        assert reason in report.reason

    def test_verify_forged_version_is_found(self, ledger: Ledger) -> None:
        first = ledger.append("m/x", "k", "a", {})
        fields = {**asdict(first), "seq": 2, "version": 3, "key": "b", "prev_hash": first.hash}
        fields["hash"] = hash_event({**fields, "payload": "{}"})
        with database.writing(ledger.url) as connection:
            connection.execute(sa.insert(schema.EVENTS).values(fields))
        report = ledger.verify()
        assert (report.ok, report.broken_seq, report.events) == (False, 2, 1)
        assert "version is 3, expected 2" in report.reason

    @pytest.mark.parametrize("statement", ["UPDATE events SET kind = 'x' WHERE seq = 2", "DELETE FROM events"])
    def test_database_refuses_change(self, ledger: Ledger, url: str, statement: str) -> None:
        write_five(ledger)
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            execute(url, statement)
        assert ledger.verify().ok

    def test_processes_opening_and_appending_at_once_make_one_chain(self, url: str) -> None:
        names, count = ("p", "q", "r"), 12
        writers = [start_writer(url, name, count) for name in names]
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            writer.communicate(timeout=120)
            assert writer.returncode == 0
        ledger = Ledger(url)
        events = ledger.read("m/x")
        assert {event.key for event in events} == {f"{name}-{number}" for name in names for number in range(count)}
        assert [event.version for event in events] == list(range(1, len(names) * count + 1))
        claims = ledger.read("m/race")
        assert [claim.version for claim in claims] == list(range(1, len(claims) + 1))
        assert [int(claim.key.rpartition("-")[2]) for claim in claims] == list(range(len(claims)))
        assert ledger.verify().events == len(events) + len(claims)

    def test_killed_writer_leaves_a_chain_that_goes_on(self, url: str) -> None:
        writer = start_writer(url, "victim", 100_000)
        writer.stdin.write("go\n")
        writer.stdin.flush()
        acknowledged = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate(timeout=60)
        assert writer.returncode == -signal.SIGKILL
        ledger = Ledger(url)
        assert set(acknowledged) <= {event.seq for event in ledger.read()}
        ledger.append("m/x", "k", "survivor", {})
        assert ledger.verify().ok

    def test_threads_append_through_one_ledger(self, ledger: Ledger) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: ledger.append("m/x", "k", f"t{number % 20}", {}), range(40)))
        assert [event.version for event in ledger.read("m/x")] == list(range(1, 21))
        assert ledger.verify().ok

    def test_pickled_ledger_and_event_come_back(self, ledger: Ledger) -> None:
        event = ledger.append("m/x", "k", "a", {"n": 1})
        again, same = pickle.loads(pickle.dumps((ledger, event)))
        assert again.read() == [event] == [same]

    def test_closed_ledger_opens_again(self, ledger: Ledger) -> None:
        ledger.append("m/x", "k", "a", {})
        ledger.close()
        assert ledger.last_version("m/x") == 1

    def test_newer_schema_is_refused(self, ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger.append("m/x", "k", "a", {})
        execute(url, "UPDATE ledger_schema SET version_num = '9999'")
        monkeypatch.setattr(schema, "_READY", set())
        with pytest.raises(LedgerError, match=r"9999.*upgrade ray-mlops"):
            ledger.append("m/x", "k", "b", {})

    def test_first_schema_is_migrated_with_its_events(
        self, ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as old:
            old.setattr(schema, "SCHEMA_REVISION", "0001")
            old.setattr(schema, "_READY", set())
            write_five(ledger)
            execute(url, "UPDATE events SET kind = kind")  # nothing refuses it yet
        monkeypatch.setattr(schema, "_READY", set())
        ledger.append("m/x", "k", "after", {})
        assert ledger.verify().events == 6
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            execute(url, "UPDATE events SET kind = kind")
