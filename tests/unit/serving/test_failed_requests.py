"""Requests that failed: what is kept of them, what never is, and how much."""

import asyncio
import gzip
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from ray_mlops.cli import cli
from ray_mlops.config import FailedRequestsConfig, RetentionConfig
from ray_mlops.errors import ConfigError, StoreError
from ray_mlops.ledger import Ledger
from ray_mlops.orchestration.failed_replay import BundleAsker, ServiceAsker, replay_failures, report_lines
from ray_mlops.orchestration.housekeeping import collect, forget
from ray_mlops.runtime.files import Files
from ray_mlops.serving.failed_requests import FailedRequests, Failure, failures_since, read_failures

ROW = {"distance": 200.0, "carrier": "UA"}
DATA = {"source": {"path": "rows.parquet"}, "task": "binary", "target": "late"}
SECRET = {"authorization": "Bearer p-token", "cookie": "session=1", "x-api-key": "k"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path))


def failure(number: int = 1, **changes: Any) -> Failure:
    made = Failure(
        time_us=1_700_000_000_000_000 + number,
        model="flights",
        endpoint="predict",
        status=500,
        outcome="error",
        error="version 1 failed: ValueError: boom",
        version="1",
        request_id=f"r{number}",
        ids=(f"r{number}-0",),
        headers={"content-type": "application/json"},
        body_bytes=10,
        body=orjson.dumps({"instances": [ROW]}),
        response=b'{"error": {}}',
    )
    return replace(made, **changes)


def break_model(rig: Any, name: str = "one") -> None:
    def boom() -> float:
        raise ValueError("boom")

    rig.bundles[name].model.fault = boom


async def failing(rig: Any, kit: Any, *, routes: Any = None, **config: Any) -> FailedRequests:
    """A gateway that keeps what fails, with these routes."""
    failures = FailedRequests(rig.files, "replica-1", FailedRequestsConfig(**config))
    await rig.apply(routes or kit.ROUTES)
    rig.change(failures=failures)
    return failures


async def kept(rig: Any, failures: FailedRequests) -> list[Failure]:
    await failures.flush()
    return list(failures_since(rig.files, "flights"))


# -- what is kept -----------------------------------------------------------------------------------------


def test_failure_of_the_champion_is_kept_with_both_bodies_and_no_secret(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        failures = await failing(rig, kit)
        break_model(rig)
        async with rig.client() as client:
            body = kit.body(instances=[ROW], ids=["a"])
            answer = await client.post("/predict?key=k", content=body, headers=SECRET)
        assert answer.status_code == 500
        (found,) = await kept(rig, failures)
        assert (found.status, found.outcome, found.version, found.ids) == (500, "error", "1", ("a",))
        assert "ValueError: boom" in found.error
        assert (found.body, found.response) == (body, answer.content)
        assert failures.counts == {"noted": 1, "written": 1, "dropped": 0, "evicted": 0}
        (path,) = rig.files.names("failed")
        assert not any(word in rig.files.read(path) for word in (b"p-token", b"session", b"key=k", b"x-api-key"))

    asyncio.run(scenario())


def test_failure_of_the_candidate_is_kept_with_its_error_and_the_champions_answer(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        failures = await failing(rig, kit, routes=kit.split(0.999999))
        rig.arms.behaviours["2"] = lambda rows: RuntimeError("no such tensor")
        async with rig.client() as client:
            answer = await client.post("/predict", content=kit.body(instances=[ROW]))
        assert answer.status_code == 200
        (found,) = await kept(rig, failures)
        assert (found.status, found.outcome, found.version) == (200, "error", "2")
        assert found.error == "RuntimeError: no such tensor"
        assert found.response == answer.content
        assert list(found.ids) == answer.json()["ids"]

    asyncio.run(scenario())


def test_candidate_that_is_not_asked_has_not_failed_again(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        failures = await failing(rig, kit, routes=kit.split(0.999999))
        rig.arms.behaviours["2"] = lambda rows: ConnectionError("it is gone")
        async with rig.client() as client:
            for _ in range(20):
                assert (await client.post("/predict", content=kit.body(instances=[ROW]))).status_code == 200
        assert failures.counts["noted"] == rig.arms.calls < 20

    asyncio.run(scenario())


def test_refusals_are_kept_only_where_they_are_wanted(rig: Any, kit: Any) -> None:
    async def scenario(wanted: bool) -> list[Failure]:
        failures = await failing(rig, kit, client_errors=wanted)
        async with rig.client() as client:
            assert (await client.post("/predict", content=b'{"instances": [{"distnce": 1}]}')).status_code == 400
            assert (await client.post("/predict", content=b"\xff")).status_code == 400
            assert (await client.post("/predict", content=kit.body(instances=[ROW]))).status_code == 200
        return await kept(rig, failures)

    assert asyncio.run(scenario(False)) == []
    first, second = asyncio.run(scenario(True))
    assert (first.status, first.outcome, first.version, first.ids) == (400, "refused", "", ())
    assert second.body == b"\xff"


def test_nothing_is_kept_where_it_is_turned_off(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        failures = await failing(rig, kit, enabled=False, client_errors=True)
        break_model(rig)
        async with rig.client() as client:
            await client.post("/predict", content=kit.body(instances=[ROW]))
            await client.post("/predict", content=b"{")
        assert failures.counts["noted"] == 0

    asyncio.run(scenario())


def test_redacted_column_keeps_every_body_and_text_out(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        rig.settings = replace(rig.settings, redact={"carrier": "hash"})
        failures = await failing(rig, kit)

        def boom() -> float:
            raise ValueError("unexpected carrier 'UA'")

        rig.bundles["one"].model.fault = boom
        async with rig.client() as client:
            await client.post("/predict", content=kit.body(instances=[ROW], ids=["a"]))
        (found,) = await kept(rig, failures)
        assert (found.body, found.instances, found.response) == (None, None, None)
        assert (found.error, found.ids, found.outcome) == ("RayMLOpsError", ("a",), "error")
        (path,) = rig.files.names("failed")
        assert b"UA" not in rig.files.read(path)

    asyncio.run(scenario())


def test_redacted_failure_of_the_candidate_says_its_kind(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        rig.settings = replace(rig.settings, redact={"carrier": "hash"})
        failures = await failing(rig, kit, routes=kit.split(0.999999))
        for fault in (RuntimeError("carrier 'UA'"), ConnectionError("carrier 'UA'")):
            rig.arms.behaviours["2"] = lambda rows, fault=fault: fault
            async with rig.client() as client:
                await client.post("/predict", content=kit.body(instances=[ROW]))
        assert [found.error for found in await kept(rig, failures)] == ["error", "ConnectionError"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [(lambda: float("nan"), "invalid"), (lambda: time.sleep(0.2) or 0.0, "timeout"), (lambda: 1 / 0, "error")],
)
def test_champion_that_fails_is_named_with_how_it_did_even_for_another_version(
    rig: Any, kit: Any, fault: Any, outcome: str
) -> None:
    async def scenario() -> None:
        failures = await failing(rig, kit, routes=kit.split(0.5))
        rig.change(serving=rig.serving.model_copy(update={"request_timeout_s": 0.05}))
        rig.arms.behaviours["2"] = lambda rows: RuntimeError("no such tensor")
        rig.gateway.table.models["flights"].champion._base_s = 1.0  # predicts in a thread, so that it may time out
        rig.bundles["one"].model.fault = fault
        headers = {"x-model-version": "2", **kit.OPERATOR}
        async with rig.client() as client:
            answer = await client.post("/predict", content=kit.body(instances=[ROW]), headers=headers)
        assert answer.status_code >= 500
        (found,) = await kept(rig, failures)
        assert (found.version, found.outcome) == ("1", outcome)

    asyncio.run(scenario())


def test_failure_that_is_not_kept_writes_no_answer_for_it(rig: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr("ray_mlops.serving.noting.refusal", lambda *given: written.append(given))

    async def scenario() -> None:
        await failing(rig, kit)
        async with rig.client() as client:
            assert (await client.post("/predict", content=b"{")).status_code == 400

    asyncio.run(scenario())
    assert written == []


def test_rows_over_the_bound_are_left_out(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        failures = await failing(rig, kit, max_body_kb=0.1)
        break_model(rig)
        body = orjson.dumps({"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())] * 6}})
        assert failures.rows_that_fit([ROW] * 4) == [ROW] * 4
        async with rig.client() as client:
            await client.post("/invocations", content=body, headers={"content-type": "application/json"})
        (found,) = await kept(rig, failures)
        assert (found.instances, len(found.ids)) == (None, 6)

    asyncio.run(scenario())


def test_body_over_the_bound_is_left_out_and_the_failure_kept(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        failures = await failing(rig, kit, max_body_kb=0.1)
        break_model(rig)
        async with rig.client() as client:
            await client.post("/predict", content=kit.body(instances=[ROW] * 10))
        (found,) = await kept(rig, failures)
        assert (found.body, found.instances) == (None, None)
        assert found.body_bytes > 100
        assert len(found.ids) == 10

    asyncio.run(scenario())


def test_other_protocols_are_kept_uncompressed_and_with_their_rows(rig: Any, kit: Any) -> None:
    async def scenario() -> None:
        failures = await failing(rig, kit)
        break_model(rig)
        body = orjson.dumps({"dataframe_records": [ROW]})
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        async with rig.client() as client:
            answer = await client.post("/invocations", content=gzip.compress(body), headers=headers)
        assert answer.status_code == 500
        (found,) = await kept(rig, failures)
        assert (found.endpoint, found.body, found.headers) == (
            "invocations",
            body,
            {"content-type": "application/json"},
        )
        assert list(found.instances or ()) == [ROW]
        assert found.response == answer.content

    asyncio.run(scenario())


# -- how much ---------------------------------------------------------------------------------------------


def test_failures_that_wait_are_bounded_and_counted(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mlops.serving.failed_requests.MAX_WAITING", 3)
    failures = FailedRequests(files, "r", FailedRequestsConfig())
    for number in range(5):
        failures.note(failure(number))
    assert failures.counts == {"noted": 5, "written": 0, "dropped": 2, "evicted": 0}
    asyncio.run(failures.close())
    assert failures.counts["written"] == 3


def test_oldest_files_give_way(files: Files) -> None:
    async def scenario() -> FailedRequests:
        failures = FailedRequests(files, "r", FailedRequestsConfig(max_mb=0.005))
        for number in range(20):
            failures.note(failure(number))
            await failures.flush()
        return failures

    failures = asyncio.run(scenario())
    left = [found.request_id for found in failures_since(files, "flights")]
    assert left == [f"r{number}" for number in range(20 - len(left), 20)]
    assert sum(files.size(name) for name in files.names("failed")) <= 0.005 * 2**20
    assert failures.counts["evicted"] == 20 - len(left) > 0


class FullFiles(Files):
    """A disk that is full when told."""

    is_full = False

    def write(self, path: str, content: bytes) -> None:
        if self.is_full:
            raise StoreError("no space left on device")
        super().write(path, content)


def test_full_disk_keeps_them_waiting_and_close_says_what_is_dropped(tmp_path: Path) -> None:
    async def scenario() -> None:
        files = FullFiles(str(tmp_path))
        failures = FailedRequests(files, "r", FailedRequestsConfig())
        failures.note(failure(1))
        files.is_full = True
        await failures.flush()
        assert failures.counts["written"] == 0
        files.is_full = False
        await failures.flush()
        assert failures.counts["written"] == 1
        files.is_full = True
        failures.note(failure(2))
        await failures.close()
        assert failures.counts == {"noted": 2, "written": 1, "dropped": 1, "evicted": 0}
        assert [found.request_id for found in failures_since(files, "flights")] == ["r1"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"body": b"\xff\x00", "response": None},
        {"body": None, "instances": [{"a": 1.5, "b": None}]},
        {"headers": {}, "ids": ()},
    ],
)
def test_line_reads_back(changes: dict[str, Any]) -> None:
    assert Failure.from_line(failure(**changes).line()) == failure(**changes)


def test_rows_that_json_cannot_hold_are_left_out() -> None:
    found = Failure.from_line(failure(body=None, instances=[{"a": "\ud800"}]).line())
    assert found.instances is None


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"no json", b'{"schema_version": 2}'])
def test_damaged_file_is_named(files: Files, line: bytes) -> None:
    files.write("failed/flights/day=2024-01-01/x.jsonl", line + b"\n")
    with pytest.raises(StoreError, match=r"x\.jsonl: holds a line that is no failed request"):
        read_failures(files, "failed/flights/day=2024-01-01/x.jsonl")


def test_store_that_is_down_does_not_let_more_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mlops.serving.failed_requests.MAX_WAITING", 3)

    class DownFiles(Files):
        is_down = True

        def write(self, path: str, content: bytes) -> None:
            failures.note(failure(99))  # comes while the store is tried
            if self.is_down:
                raise StoreError("the store is away")
            super().write(path, content)

    files = DownFiles(str(tmp_path))
    failures = FailedRequests(files, "r", FailedRequestsConfig())

    async def scenario() -> None:
        for round_ in range(4):
            for number in range(3):
                failures.note(failure(10 * round_ + number))
            await failures.flush()
        assert len(failures._waiting) == 3
        files.is_down = False
        await failures.close()

    asyncio.run(scenario())
    assert failures.counts["written"] == 3
    assert failures.counts["noted"] == 3 + failures.counts["dropped"]


def test_rows_and_ids_count_among_what_waits(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mlops.serving.failed_requests.MAX_WAITING_BYTES", 100_000)
    failures = FailedRequests(files, "r", FailedRequestsConfig())
    failures.note(failure(1, body=None, instances=[ROW] * 10_000))
    failures.note(failure(2, ids=tuple(f"{number:032d}" for number in range(10_000))))
    failures.note(failure(3))
    assert failures.counts["dropped"] == 2


def test_full_store_makes_room_for_more_than_one_file(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mlops.serving.failed_requests.MAX_FILES", 20)

    async def scenario() -> None:
        failures = FailedRequests(files, "r", FailedRequestsConfig())
        for number in range(21):
            failures.note(failure(number))
            await failures.flush()
        assert failures.counts["evicted"] == 3  # 18 are 90 %, the new one included

    asyncio.run(scenario())


def test_failures_of_one_microsecond_do_not_overwrite_each_other(files: Files) -> None:
    async def scenario() -> None:
        failures = FailedRequests(files, "r", FailedRequestsConfig())
        for name in ("a", "b"):
            failures.note(failure(1, request_id=name))
            await failures.flush()

    asyncio.run(scenario())
    assert [found.request_id for found in failures_since(files, "flights")] == ["a", "b"]


def test_failures_of_two_replicas_are_read_oldest_first_and_earlier_days_not_at_all(files: Files) -> None:
    async def scenario() -> None:
        for replica, numbers in (("b", (1, 4)), ("a", (2, 3))):
            failures = FailedRequests(files, replica, FailedRequestsConfig())
            for number in numbers:
                failures.note(failure(number))
            await failures.close()

    asyncio.run(scenario())
    files.write("failed/flights/day=2023-11-13/x.jsonl", b"damaged")
    found = failures_since(files, "flights", failure(2).time_us)
    assert [each.request_id for each in found] == ["r2", "r3", "r4"]


def test_close_waits_for_a_write_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mlops.serving.failed_requests.WRITE_INTERVAL_S", 0.0)
    begun, go_on = threading.Event(), threading.Event()

    class SlowFiles(Files):
        def write(self, path: str, content: bytes) -> None:
            begun.set()
            go_on.wait(30.0)
            super().write(path, content)

    async def scenario() -> None:
        failures = FailedRequests(SlowFiles(str(tmp_path)), "r", FailedRequestsConfig())
        failures.note(failure(1))
        failures.start()
        await asyncio.to_thread(begun.wait, 30.0)
        closing = asyncio.create_task(failures.close())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await closing
        assert failures.counts["written"] == 1

    asyncio.run(scenario())


def test_error_that_json_cannot_hold_does_not_stop_the_writer(files: Files) -> None:
    write(files, failure(1, error="no column \ud800"), failure(2))
    first, second = failures_since(files, "flights")
    assert (first.error, second.request_id) == ("no column ?", "r2")


# -- keeping house ----------------------------------------------------------------------------------------


def write(files: Files, *failures: Failure) -> None:
    async def scenario() -> None:
        kept = FailedRequests(files, "r", FailedRequestsConfig())
        for each in failures:
            kept.note(each)
        await kept.close()

    asyncio.run(scenario())


def test_forget_deletes_failed_requests_of_ids_and_of_bodies_that_name_them(files: Files, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    unparsed = failure(3, ids=(), body=b'{"ids": ["r1-0"')
    write(files, failure(1), failure(2), unparsed)
    report = forget("flights", ["r1-0"], files, ledger, by="me")
    assert (report.failed_requests, report.missing) == (2, ())
    assert [found.request_id for found in failures_since(files, "flights")] == ["r2"]
    forget("flights", ["r2-0"], files, ledger, by="me")
    assert list(files.names("failed")) == []


def test_gc_deletes_old_ones_by_the_clock(files: Files, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    write(files, failure(1))
    now = 1_700_000_000.0
    options = {"failed_requests": timedelta(days=14)}
    assert (
        collect("flights", RetentionConfig(), files, ledger, now=now + 10 * 86400, **options).failed_request_files == 0
    )
    late = now + 20 * 86400
    assert collect("flights", RetentionConfig(), files, ledger, now=late, dry=True, **options).failed_request_files == 1
    assert len(list(files.names("failed"))) == 1
    assert collect("flights", RetentionConfig(), files, ledger, now=late, **options).failed_request_files == 1
    assert list(files.names("failed")) == []


# -- replay -----------------------------------------------------------------------------------------------


def test_bundle_that_was_mended_answers_what_failed(kit: Any) -> None:
    bundle = kit.build_bundle()
    good, gone = failure(1), failure(2, body=None)
    odd = failure(3, body=None, instances=[{**ROW, "extra": 1}])
    nonsense = failure(4, body=b"{")
    report = replay_failures([good, gone, odd, nonsense], BundleAsker(bundle))
    assert (report.answered, report.failing) == (2, ())
    assert [item.request_id for item in report.skipped] == ["r2", "r4"]

    bundle.model.fault = lambda: 1 / 0
    report = replay_failures([good], BundleAsker(bundle))
    assert [(item.request_id, item.now) for item in report.failing] == [("r1", "ZeroDivisionError: division by zero")]
    assert report_lines(report)[0] == "0 answered now, 1 still fail, 0 not sent"
    bundle.model.fault = lambda: np.nan
    assert replay_failures([good], BundleAsker(bundle)).failing[0].now == "the prediction is not finite"


def test_service_is_asked_for_the_version_that_failed_with_the_operators_token() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        version = request.headers.get("x-model-version", "1")
        if version == "9":
            return httpx.Response(404, text="no such version")
        if version == "5":
            return httpx.Response(500, text="boom")
        return httpx.Response(200, headers={"x-model-version": "1"}, json={})

    asker = ServiceAsker("http://service", "token", transport=httpx.MockTransport(answer))
    given = [
        failure(1, version="1"),
        failure(2, version="2", endpoint="invocations"),
        failure(3, version="9"),
        failure(4, version="5", endpoint="oip_infer"),
        failure(5, version="", body=None, instances=[ROW]),
    ]
    report = replay_failures(given, asker)
    assert report.answered == 2
    assert [item.now for item in report.failing] == ["version 2 failed, version 1 answered for it", "HTTP 500: boom"]
    assert [item.now for item in report.skipped] == ["version 9 is not served; name another with --version"]
    paths = ("predict", "invocations", "predict", "infer", "predict")
    assert [request.url.path.rpartition("/")[2] for request in asked] == list(paths)
    assert all(request.headers["authorization"] == "Bearer token" for request in asked)
    assert orjson.loads(asked[4].content) == {"instances": [ROW]}


@pytest.mark.parametrize("status", [401, 403])
def test_token_that_is_refused_is_no_failure_of_the_model(status: int) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, text="operate needs a token"))
    report = replay_failures([failure(1, version="1")], ServiceAsker("http://service", None, transport=transport))
    assert (report.answered, report.failing) == (0, ())
    assert "refused the token" in report.skipped[0].now


def test_gateway_answers_its_own_failures_once_it_is_mended(rig: Any, kit: Any) -> None:
    async def scenario() -> list[Failure]:
        failures = await failing(rig, kit)
        break_model(rig)
        async with rig.client() as client:
            await client.post("/predict", content=kit.body(instances=[ROW]))
            await client.post("/v2/models/flights/infer", content=b"{}")
        rig.bundles["one"].model.fault = None
        found = await kept(rig, failures)
        async with rig.client() as client:
            headers = {"x-model-version": found[0].version, **kit.OPERATOR}
            response = await client.post("/models/flights/predict", content=found[0].body, headers=headers)
        assert response.status_code == 200
        return found

    assert len(asyncio.run(scenario())) == 1


def test_command_says_what_still_fails_and_exits_with_1(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files, failure(1), failure(2, body=None))
    content = {"name": "flights", "store": {"root": str(tmp_path)}, "data": DATA, "serving": {"port": 9}}
    (tmp_path / "c.json").write_bytes(orjson.dumps(content))
    config = ["--config", str(tmp_path / "c.json")]
    result = CliRunner().invoke(cli, ["replay", *config, "--failed", "--json"])
    report = orjson.loads(result.stdout)
    assert result.exit_code == 1, result.output
    assert report["answered"] == 0
    assert report["failing"][0]["now"].startswith("no answer")
    assert report["skipped"][0]["request_id"] == "r2"
    result = CliRunner().invoke(cli, ["replay", *config, "--failed", "--since", "1h"])
    assert (result.exit_code, result.stdout) == (0, "0 answered now, 0 still fail, 0 not sent\n")
    result = CliRunner().invoke(cli, ["replay", *config, "--failed", "--since", "yesterday"])
    assert isinstance(result.exception, ConfigError)
    assert "--since" in str(result.exception)


def test_counts_are_metrics(rig: Any, kit: Any) -> None:
    async def scenario() -> str:
        await failing(rig, kit)
        break_model(rig)
        async with rig.client() as client:
            await client.post("/predict", content=kit.body(instances=[ROW]))
            return (await client.get("/metrics", headers={"authorization": "Bearer r-token"})).text

    text = asyncio.run(scenario())
    assert 'ray_mlops_failed_requests_total{replica="replica-1",state="noted"} 1.0' in text
    assert 'ray_mlops_failed_request_files_evicted_total{replica="replica-1"} 0.0' in text
    assert 'ray_mlops_log_spilled_bytes{replica="replica-1"} 0.0' in text
    for state in ("accepted", "written", "spooled", "dropped", "lost"):
        assert f'ray_mlops_log_rows_total{{replica="replica-1",state="{state}"}} 0.0' in text
