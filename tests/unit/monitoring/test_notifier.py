"""The threads: whoever is configured is told, and a target that hangs holds up nobody else."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ray_mlops.config import TargetConfig, build_config, config_hash
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.notices import follower, notifier
from ray_mlops.monitoring.notices.delivery import Attempt
from ray_mlops.monitoring.notices.exposition import expose_notifications
from ray_mlops.monitoring.notices.notice import Notice
from ray_mlops.monitoring.notices.notifier import Notifier
from ray_mlops.monitoring.notices.outbox import TargetState, load_state, save_state, stored_targets
from ray_mlops.runtime.files import Files
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.routes import commit_routes, withdraw_routes

PATIENCE_S = 20.0


class Office:
    """A store with a served model, and targets that put what they get into queues; 'stuck' never answers."""

    def __init__(self, root: Path) -> None:
        self.ledger, self.files = Ledger(f"sqlite:///{root}/ledger.db"), Files(str(root))
        self.got: dict[str, Queue[Notice]] = {}
        self.release = threading.Event()
        self.entered = threading.Event()
        self.urls: list[str] = []
        self.routes = ModelRoutes("m", 0, Arm("1", "b", "h"))
        self.notifier: Notifier | None = None

    def deploy(self, *names: str, **more: Any) -> None:
        targets = [{"type": "webhook", "name": name, "url": "http://h/", "events": ["*"]} for name in names]
        data = {"source": {"path": "a.csv"}, "task": "binary", "target": "y"}
        config = build_config({"name": "m", "data": data, "notifications": {"targets": targets, **more}}, {})
        key = config_hash(config)
        payload = {"config": config.model_dump(mode="json"), "hash": key}
        self.ledger.append("m/config", "config.deployed", f"m/config/{key}", payload, time=0.0)
        before = self.ledger.last_version("m/routes")
        wanted = ModelRoutes.from_json({**self.routes.to_json(), "config_hash": key})
        self.routes = commit_routes(self.ledger, wanted, expect_version=before)

    def open(self) -> Notifier:
        self.notifier = Notifier(self.ledger, self.files, lambda: "http://console", self._transport)
        return self.notifier

    def open_again(self) -> None:
        """As after a kill: nothing is handed over but the store."""
        assert self.notifier is not None
        self.notifier.stop()
        self.open().start()

    def approve(self, name: str) -> None:
        self.ledger.append("m/versions", "version.approved", name, {"version": name, "by": "ann"})

    def queue(self, name: str) -> Queue[Notice]:
        return self.got.setdefault(name, Queue())

    def approvals_at(self, name: str, count: int = 1) -> list[str]:
        """Ids of the next notices of approvals that a target gets."""
        found: list[str] = []
        while len(found) < count:
            notice = self.queue(name).get(timeout=PATIENCE_S)
            found += [notice.id] if notice.kind == "approval.given" else []
        return found

    def _transport(self, target: TargetConfig, console_url: str) -> "Office.Transport":
        self.urls.append(console_url)
        return Office.Transport(self, target.name)

    class Transport:
        def __init__(self, office: "Office", name: str) -> None:
            self._office, self._name = office, name

        def send(self, notice: Notice) -> Attempt:
            if self._name == "stuck":
                self._office.entered.set()
                self._office.release.wait(PATIENCE_S)
            self._office.queue(self._name).put(notice)
            return Attempt("delivered", "ok")


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setattr(follower, "SETTLE_S", 0.0)
    monkeypatch.setattr(follower, "POLL_S", 0.01)
    monkeypatch.setattr(notifier, "REFRESH_S", 0.01)
    found = Office(tmp_path)
    yield found
    found.release.set()
    if found.notifier is not None:
        found.notifier.stop()


def test_target_that_hangs_holds_up_no_other_and_not_the_caller(office: Office) -> None:
    office.deploy("stuck", "quick")
    office.open().start()
    office.approve("a1")
    assert office.approvals_at("quick") == ["a1"]
    assert office.entered.wait(PATIENCE_S)
    office.approve("a2")
    assert office.approvals_at("quick") == ["a2"]
    assert office.queue("stuck").empty()
    office.release.set()
    assert office.approvals_at("stuck", 2) == ["a1", "a2"]


def test_target_is_taken_up_when_a_configuration_is_deployed_and_forgotten_when_it_leaves(office: Office) -> None:
    office.deploy("first")
    office.open().start()
    office.approve("a1")
    assert office.approvals_at("first") == ["a1"]
    office.deploy("second")
    wait_until(lambda: stored_targets(office.files) == [("m", "second")])
    office.approve("a2")
    assert "a2" in office.approvals_at("second", 2)
    assert office.queue("first").qsize() <= 1  # it may have seen the deployment


def test_configuration_that_cannot_be_read_leaves_all_targets_as_they_were(office: Office) -> None:
    office.deploy("first")
    office.open().start()
    office.approve("a1")
    assert office.approvals_at("first") == ["a1"]
    payload = {"config": {"name": "m", "data": "of another age"}, "hash": "odd"}
    office.ledger.append("m/config", "config.deployed", "m/config/odd", payload, time=0.0)
    wanted = ModelRoutes.from_json({**office.routes.to_json(), "config_hash": "odd"})
    commit_routes(office.ledger, wanted, expect_version=office.ledger.last_version("m/routes"))
    for model in ("n", "m"):
        odd = ModelRoutes.from_json({**wanted.to_json(), "model": model, "version": 0})
        office.ledger.append(f"{model}/config", "config.deployed", f"{model}/config/odd", payload, time=0.0)
        commit_routes(office.ledger, odd, expect_version=office.ledger.last_version(f"{model}/routes"))
    office.approve("a2")
    assert office.approvals_at("first") == ["a2"]
    office.open_again()
    wait_until(lambda: office.notifier is not None and office.notifier._configs == {})
    assert stored_targets(office.files) == [("m", "first")]


def test_target_that_left_while_nobody_was_there_begins_anew(office: Office) -> None:
    save_state(office.files, TargetState("m", "old", 0, 0.0))
    office.deploy("first")
    office.open().start()
    wait_until(lambda: load_state(office.files, "m", "old") is None)


def test_next_notifier_goes_on_where_the_last_one_was_stopped(office: Office) -> None:
    office.deploy("ops")
    office.open().start()
    office.approve("a1")
    assert office.approvals_at("ops") == ["a1"]
    wait_until(lambda: state_of(office).cursor == 3)
    office.open_again()
    office.approve("a2")
    assert office.approvals_at("ops") == ["a2"]


def test_withdrawn_model_still_tells(office: Office) -> None:
    office.deploy("ops")
    withdraw_routes(office.ledger, "m", expect_version=office.ledger.last_version("m/routes"))
    office.open().start()
    assert office.queue("ops").get(timeout=PATIENCE_S).kind == "model.undeployed"


def test_links_lead_to_the_configured_address_else_to_the_recorded_one(office: Office) -> None:
    office.deploy("ops")
    office.open().refresh()
    office.deploy("mail", console_url="https://ml.example.org")
    office.open().refresh()
    assert office.urls == ["http://console", "https://ml.example.org"]


def test_metrics_tell_what_became_of_the_notices_of_each_target() -> None:
    state = TargetState("m", 'o"ps', 7, 0.0, delivered=5, failed=3, given_up=1, failures=2)
    families = text_string_to_metric_families(expose_notifications([state]))
    found = {(s.name, s.labels.get("outcome")): s.value for family in families for s in family.samples}
    assert found == {
        ("ray_mlops_notifications_total", "delivered"): 5,
        ("ray_mlops_notifications_total", "failed"): 3,
        ("ray_mlops_notifications_total", "given_up"): 1,
        ("ray_mlops_notification_failures", None): 2,
    }


def state_of(office: Office) -> TargetState:
    return load_state(office.files, "m", "ops") or TargetState("m", "ops", 0, 0.0)


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for what other threads do; ends at once when it is done."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.005)
