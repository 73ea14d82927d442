"""The demo: every stage of the loop, once, for real.

Nothing here decides: what is trained, alarmed, promoted or rolled back follows from the configuration.
Importing this module imports Ray, so the cluster is joined first (see ``cli.demo``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from ray_mlops.config import DemoConfig, ProjectConfig
from ray_mlops.data.source import source_table
from ray_mlops.demo.clock import Clock
from ray_mlops.demo.outcome import Outcome, collect_outcome, measure_months
from ray_mlops.demo.replay import Replay, ReplayReport, replay_days
from ray_mlops.demo.sabotage import train_sabotaged
from ray_mlops.ledger import Ledger
from ray_mlops.orchestration.addresses import service_address
from ray_mlops.orchestration.deploy import Deployment, deploy
from ray_mlops.orchestration.phases import OnPhase
from ray_mlops.orchestration.pipeline import run_pipeline
from ray_mlops.orchestration.service import ensure_service
from ray_mlops.orchestration.versions import find_bundle
from ray_mlops.serving.client import Client
from ray_mlops.serving.rollout.state import OVER


@dataclass(slots=True)
class DemoRun:
    """One run of the demo against a cluster that has been joined."""

    config: ProjectConfig
    demo: DemoConfig
    clock: Clock
    say: OnPhase
    note: Callable[[str], None]
    _sabotaged: str | None = None

    def run(self) -> tuple[Outcome, Deployment]:
        """Train, deploy, replay, and read from the ledger what happened."""
        config = self.config
        self.say("start", "service")
        ensure_service(config)
        self.clock.enter("data, tune, train, gate")

        def show(phase: str, detail: str = "") -> None:
            self.say("data, tune, train, gate", f"{phase} {detail}")

        first = run_pipeline(config, on_phase=show)
        self.note(first.summary())
        deployment = deploy(config)
        self.note(f"serving version {deployment.version} at {deployment.url}")
        pa.default_memory_pool().release_unused()  # the pipeline's rows
        table = source_table(self.demo.replay.source or config.data.source)
        report = self._replay(deployment, table)
        self.clock.enter("report")
        self.say("report", "")
        ledger = Ledger.open(config.store)
        bundle = find_bundle(config, deployment.version)
        months = measure_months(table, config.data, report, bundle, bundle.encoder)
        window_us = config.monitoring.window // timedelta(microseconds=1)
        return collect_outcome(config.name, ledger, months, report, self._sabotaged, window_us), deployment

    def _replay(self, deployment: Deployment, table: pa.Table) -> ReplayReport:
        config = self.config
        window_us = config.monitoring.window // timedelta(microseconds=1)
        _, token = service_address(config)
        self.clock.enter("replay")
        with Client(deployment.url, config.name, token) as client:
            watcher = _Watcher(client, self.clock, self.say, self.note)
            replay = Replay(watcher, self.demo.replay, window_us, watcher.on_day)

            def before_day(day: date) -> bool:
                return self._before_day(day, client)

            return replay.run(replay_days(table, config.data, self.demo.replay), before_day)

    def _before_day(self, day: date, client: Client) -> bool:
        """What the demo's operator does: start the sabotaged candidate once the loop is at rest."""
        sabotage = self.demo.sabotage
        if sabotage is None or self._sabotaged is not None or day < sabotage.start:
            return False
        if client.rollout()["state"] not in ("none", *OVER):
            return False
        self.clock.enter("sabotage")
        self.note(f"{day} an operator trains on flipped labels of {sabotage.column} {sabotage.value}")

        def show(phase: str, detail: str = "") -> None:
            self.say("replay", f"{day}: sabotage, {phase} {detail} ({self.clock})")

        report = train_sabotaged(self.config, sabotage, show)
        assert report.version is not None
        self._sabotaged = report.version
        gate = report.gate.reason if report.gate is not None else ""
        self.note(f"{day} the gate says of version {report.version}: {gate}; the operator overrides it")
        client.command("start", version=report.version, override_gate="sabotage of the demo", skip_shadow=True)
        self.clock.enter("rollouts")
        return True


class _Watcher:
    """A client that also tells people what the loop is doing, and books the time to the phase it belongs to."""

    def __init__(self, client: Client, clock: Clock, say: OnPhase, note: Callable[[str], None]) -> None:
        self._client, self._clock, self._say, self._note = client, clock, say, note
        self._last = ("", "", "")
        self._day = ""
        self.predict = client.predict
        self.feedback = client.feedback

    def monitoring(self) -> dict[str, object]:
        found = self._client.monitoring()
        if "closed_window" not in found:  # the monitor did not answer in time; the barrier asks again
            return found
        flight = found["retraining"]["in_flight"]
        alarms = ", ".join([*found["alarms"], *found["breaches"]])
        if alarms != self._last[0]:
            self._note(
                f"{found['watermark'][:10]} alarm: {alarms}" if alarms else f"{found['watermark'][:10]} no alarm"
            )
        if (flight or "") != self._last[1] and flight:
            self._note(f"{found['watermark'][:10]} retraining job {flight}")
        self._last = (alarms, flight or "", self._last[2])
        if flight:
            self._clock.enter("retraining")
            self._say("replay", f"{found['watermark'][:10]}: event time waits for {flight} ({self._clock})")
        return found

    def rollout(self) -> dict[str, object]:
        found = self._client.rollout()
        state = f"version {found['version']} {found['state']}"
        if state != self._last[2] and found["state"] != "none":
            self._note(f"{self._day} rollout: {state} ({found['reason']})")
        self._last = (self._last[0], self._last[1], state)
        over = found["state"] in ("none", *OVER)
        self._clock.enter("replay" if over else "rollouts")
        return found

    def on_day(self, day: date, report: ReplayReport) -> None:
        self._day = day.isoformat()
        posted = f"{report.rows} rows in {report.requests} requests, {report.failed} failed"
        self._say("replay", f"{day}: {posted} ({self._clock})")
