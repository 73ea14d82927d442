"""What an arm's state is taken for, with Serve and Ray scripted."""

import asyncio
from typing import Any

import pytest
from ray.serve.schema import ApplicationStatus

from ray_mlops.errors import ClusterError, RolloutError
from ray_mlops.serving import serve_arms
from ray_mlops.serving.arm_state import ArmReplicas, in_words
from ray_mlops.serving.serve_arms import ServeArmControl

OOM = "out of memory: Task was killed due to the node running low on memory."


class Cluster:
    """Serve's and Ray's answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status: ApplicationStatus | None = ApplicationStatus.RUNNING
        self.running = {"r1": "a1", "r2": "a2"}
        self.causes: dict[str, str] = {}
        self.is_away = self.hangs = False
        self.control = ServeArmControl()
        monkeypatch.setattr(serve_arms, "app_status", lambda name: self._status())
        monkeypatch.setattr(serve_arms, "read_replicas", lambda name, deployment: self._replicas())
        monkeypatch.setattr(serve_arms, "cause_of_death", lambda actor: self.causes.get(actor, ""))
        monkeypatch.setattr(self.control, "_ask", self._ask)

    def _status(self) -> tuple[ApplicationStatus | None, str]:
        if self.is_away:
            raise ClusterError("no answer: ActorUnavailableError", "Serve's controller")
        return self.status, "says Serve"

    def _replicas(self) -> ArmReplicas:
        if self.is_away:
            raise ClusterError("no answer: ActorUnavailableError", "Serve's controller")
        return ArmReplicas(2, dict(self.running))

    async def _ask(self, *arguments: Any) -> str:
        if self.hangs:
            raise RolloutError("no answer to ping in 5 s")
        return "pid"

    def ready(self) -> tuple[str, str]:
        return asyncio.run(self.control.ready("m", "2"))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster(monkeypatch)
    assert cluster.ready() == ("ready", "")
    return cluster


def test_more_replicas_are_no_death(cluster: Cluster) -> None:
    cluster.running["r3"] = "a3"
    assert cluster.ready() == ("ready", "")
    cluster.running = {"r1": "a1", "r2": "a2"}
    assert cluster.ready()[0] == "failed", "but the third counts from then on"


def test_any_replica_that_died_has_failed_though_serve_started_another(cluster: Cluster) -> None:
    cluster.running, cluster.causes = {"r1": "a1", "r9": "a9"}, {"a2": OOM}
    assert cluster.ready() == ("failed", f"its process died ({OOM})")
    cluster.causes = {}
    assert cluster.ready() == ("failed", "its process died")


def test_dead_process_that_serve_holds_for_running_is_no_hang(cluster: Cluster) -> None:
    cluster.hangs, cluster.causes = True, {"a1": OOM}
    assert cluster.ready() == ("failed", f"its process died ({OOM})")


def test_process_that_does_not_answer_hangs(cluster: Cluster) -> None:
    cluster.hangs = True
    assert cluster.ready() == ("failed", "it hangs: no answer to ping in 5 s")


def test_absent_controller_says_nothing_about_the_arm(cluster: Cluster) -> None:
    cluster.is_away = True
    health, detail = cluster.ready()
    assert (health, detail) == ("starting", "Serve's controller: no answer: ActorUnavailableError")
    cluster.is_away = False
    assert cluster.ready() == ("ready", "")


@pytest.mark.parametrize("status", [ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY])
def test_application_that_failed_is_told_in_serves_words(cluster: Cluster, status: ApplicationStatus) -> None:
    cluster.status = status
    assert cluster.ready() == ("failed", "says Serve")


def test_deleted_application_is_absent(cluster: Cluster) -> None:
    cluster.status = None
    assert cluster.ready() == ("absent", "says Serve")


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("oom_context", "Task was killed due to the node running low on memory.\nMore.", OOM),
        ("actor_died_error_context", "Worker exits.\n\n", "Worker exits."),
        ("creation_task_failure_context", "Traceback\n  File\nBundleError: x", "it cannot be built: BundleError: x"),
        ("something_new", "", ""),
    ],
)
def test_cause_of_death_is_one_line(kind: str, text: str, words: str) -> None:
    assert in_words(kind, text) == words
