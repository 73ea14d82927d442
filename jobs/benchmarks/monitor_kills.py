"""The monitor killed at random moments while it is fed: does it end with the same evidence?

The monitor runs in a process of its own, over a ledger and a store on disk. It is killed by SIGKILL in the middle of
flushes, labels and windows that close, and started again; whoever fed it sends again, as replicas do. In the end its
evidence, its decisions, the jobs it submitted and the labels it joined are compared with a run that nobody disturbed.
"""

import json
import multiprocessing
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from ray_mlops.config import ProjectConfig, StoreConfig, config_hash, load_config
from ray_mlops.demo.flights import departures
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.handover import Reference, build_handover
from ray_mlops.monitoring.service import MonitorService
from ray_mlops.monitoring.submission import JobState
from ray_mlops.orchestration.backtest.history import History
from ray_mlops.orchestration.backtest.policies import label_records, log_rows, write_labels
from ray_mlops.orchestration.backtest.replay import Backtest
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import log_path
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.routes import commit_routes
from ray_mlops.training.bundle import ModelBundle

CONFIG = Path(__file__).parents[2] / "configs" / "flights.yaml"
START_US = 1362096000_000_000
"""1 March 2013."""
ROWS_PER_DAY, FLUSHES = 200, 4
"""Rows of a day, and flushes that they come in."""
CALM_S = 0.02
"""A call that is killed lives at most this long, or half as long again as the last calm one."""


@dataclass
class JobFile:
    """A job server that outlives the monitor: a file with every submission."""

    path: Path

    def submit(self, submission_id: str, decision_id: str) -> None:
        """Take a job, once."""
        if self.state(submission_id) == "unknown":
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{submission_id}\n")

    def state(self, submission_id: str) -> JobState:
        """Every job that was submitted runs."""
        return "running" if submission_id in self.submitted() else "unknown"

    def submitted(self) -> list[str]:
        """All submissions, in order."""
        return self.path.read_text(encoding="utf-8").split() if self.path.exists() else []


def serve_monitor(pipe: Connection, store: StoreConfig, model: str, jobs: Path) -> None:
    """Be the monitor's process: answer calls until it ends, or is ended."""
    ledger, files = Ledger.open(store), Files(store.root_uri)
    service = MonitorService(ledger, files, JobFile(jobs))
    service.watch(model)
    service.supervise(model)
    pipe.send(None)
    while True:
        method, arguments = pipe.recv()
        pipe.send(evidence(service, model) if method == "evidence" else getattr(service, method)(*arguments))


def evidence(service: MonitorService, model: str) -> dict[str, Any]:
    """All that must be the same to the bit: e-values by column and channel, alarms, closed windows, labelled rows."""
    monitor = service._model(model).epoch.monitor
    view = monitor.dataset.view()
    columns = view["features"]
    return {
        "log_e": {"inputs": view["log_e"], "loss": view["loss"] and view["loss"]["log_e"]},
        "columns": {name: [column["log_e"], column["channels"]] for name, column in columns.items()},
        "closed": monitor.closed_window,
        "alarms": list(monitor.dataset.alarms()),
        "breaches": list(monitor.dataset.breaches()),
        "labelled": {str(window): count for window, count in monitor.labelled_rows().items()},
    }


@dataclass
class Keeper:
    """Keeps a monitor's process alive and asks it; kills it now and then.

    Args:
        store: The store.
        model: The model.
        kills: How often it shall be killed in all.
        calls: How many calls are to come, about.
        seed: Of the moments.
    """

    store: StoreConfig
    model: str
    kills: int
    calls: int
    seed: int
    killed: int = 0
    _pipe: Connection | None = None
    _process: Any = None
    _calm_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["jobs.benchmarks.monitor_kills"])
        self._left = self.calls

    @property
    def jobs(self) -> Path:
        return Path(self.store.root) / "jobs.txt"

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call the monitor; one that died is started again and asked again."""
        while True:
            try:
                if self._pipe is None:
                    self._start()
                return self._ask_once(method, arguments)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                self._end()

    def _ask_once(self, method: str, arguments: tuple[Any, ...]) -> Any:
        assert self._pipe is not None
        started = time.monotonic()
        assassin = None
        if self.killed < self.kills and self._random.random() < (self.kills - self.killed) / max(self._left, 1):
            latest_s = 1.5 * self._calm_s.get(method, CALM_S)
            assassin = threading.Timer(self._random.uniform(0.0, latest_s), self._kill)
        self._left -= 1
        self._pipe.send((method, arguments))
        if assassin is not None:
            assassin.start()
        try:
            reply = self._pipe.recv()
        finally:
            if assassin is not None:
                assassin.cancel()
                assassin.join()
        if assassin is None:
            self._calm_s[method] = time.monotonic() - started
        return reply

    def _kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self.killed += 1

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self.store, self.model, self.jobs)
        self._process = self._context.Process(target=serve_monitor, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._pipe = ours
        ours.recv()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._pipe = self._process = None

    def close(self) -> None:
        """End the process."""
        self._end()


@dataclass(frozen=True, slots=True)
class Ending:
    """What a run came to."""

    evidence: Mapping[str, Any]
    decisions: tuple[Mapping[str, Any], ...]
    alarms: tuple[Mapping[str, Any], ...]
    submitted: tuple[str, ...]
    killed: int


def run(
    config: ProjectConfig, history: History, windows: range, champion: ModelBundle, root: Path, kills: int, seed: int
) -> Ending:
    """Feed a monitor a stretch of a history, and kill it meanwhile."""
    store = StoreConfig(root=str(root))
    config = config.model_copy(update={"store": store})
    files, ledger, name = Files(store.root_uri), Ledger.open(store), config.name
    digest = config_hash(config)
    deployed = {"config": config.model_dump(mode="json"), "hash": digest}
    ledger.append(f"{name}/config", "config.deployed", f"{name}/config/{digest}", deployed)
    saved = champion.save(files)
    routes = commit_routes(ledger, ModelRoutes(name, 0, Arm("1", saved.uri, saved.hash), config_hash=digest), 0)
    keeper = Keeper(store, name, kills, len(windows) * (FLUSHES + 1), seed)
    delay_us = round(config.monitoring.labels.delay.total_seconds() * 1e6)
    labelled_us, sequence = windows[0] * history.window_us - delay_us, 0
    try:
        for window in windows:
            rows = history.window(window)
            until_us = window * history.window_us - delay_us
            records = label_records(history.part(labelled_us, until_us), config)
            labelled_us = until_us
            if records:
                write_labels(files, name, records, f"b-{window}")
                keeper.ask("add_labels", name, records)
            for part in flushes(rows):
                sequence += 1
                logged = log_rows(part, champion, config, "1", routes.version)
                files.write_table(log_path(name, day_of(part), "b", sequence), logged)
                hand_over(keeper, name, sequence, logged)
            finish(ledger, name)
        found = keeper.ask("evidence")
    finally:
        keeper.close()
    decisions = tuple(dict(event.payload) for event in ledger.read(f"{name}/retrain", kind="retrain.decided"))
    alarms = tuple(dict(event.payload) for event in ledger.read(f"{name}/monitor", kind="monitor.alarm"))
    return Ending(found, decisions, alarms, tuple(JobFile(keeper.jobs).submitted()), keeper.killed)


def flushes(rows: History) -> list[History]:
    """A day in several flushes; the first is one row, which closes the day before."""
    cuts = [0, 1, *(len(rows) * (index + 1) // (FLUSHES - 1) for index in range(FLUSHES - 1))]
    return [rows.head(end).tail(start) for start, end in pairwise(cuts) if end > start]


def hand_over(keeper: Keeper, model: str, sequence: int, logged: pa.Table) -> None:
    """Hand a flush over until it is taken, each time counted on the reference in force and without known rows."""
    while logged.num_rows:
        reference: Reference = keeper.ask("reference", model)
        receipt = keeper.ask("handover", build_handover(model, "b", sequence, logged, reference))
        if receipt.accepted:
            return
        known = set(receipt.known)
        logged = logged.filter(pa.array([name not in known for name in logged["prediction_id"].to_pylist()]))


def finish(ledger: Ledger, model: str) -> None:
    """Let every job end without a candidate, so that the champion stays and the evidence goes on."""
    done = {event.payload["decision_id"] for event in ledger.read(f"{model}/retrain", kind="retrain.finished")}
    for event in ledger.read(f"{model}/retrain", kind="retrain.decided"):
        decision = event.payload["decision_id"]
        if decision not in done:
            payload = {"decision_id": decision, "outcome": "refused", "version": None, "reason": "benchmark"}
            ledger.append(f"{model}/retrain", "retrain.finished", f"{decision}/finished", payload)


def day_of(rows: History) -> str:
    """The day of a flush's first row."""
    return time.strftime("%Y-%m-%d", time.gmtime(int(rows.event_us[0]) / 1e6))


def measure(options: Options, report: Report) -> None:
    """Measure ``actor_kills``."""
    days, kills = (24, 10) if options.quick else (80, 100)
    settings = {"retraining.cool_down": "10d", "retraining.budget": {"count": 40, "per": "365d"}, "training.epochs": 2}
    config = load_config(str(CONFIG), settings)
    history = History.of_table(departures("2013-01-01", "2013-06-30", ROWS_PER_DAY), config)
    backtest = Backtest(config, history, START_US)
    windows = range(backtest.windows[0], backtest.windows[0] + days)
    calm = run(config, history, windows, backtest.first, options.directory / "calm", 0, 0)
    disturbed = run(config, history, windows, backtest.first, options.directory / "disturbed", kills, 1)
    checks = compare(calm, disturbed)
    report.figures.append(
        Figure(
            "actor_kills",
            float(disturbed.killed if all(checks.values()) else 0),
            at_least=float(kills),
            detail=f"{disturbed.killed} kills in {days} windows; "
            + "; ".join(f"{what}: {'yes' if holds else 'NO'}" for what, holds in checks.items()),
        )
    )
    report.tables["the monitor killed while it is fed, against a calm run"] = [
        {
            "run": name,
            "kills": ending.killed,
            "alarms": len(ending.alarms),
            "decisions": len(ending.decisions),
            "jobs": len(ending.submitted),
            "labelled rows": sum(ending.evidence["labelled"].values()),
        }
        for name, ending in (("calm", calm), ("disturbed", disturbed))
    ]


def compare(calm: Ending, disturbed: Ending) -> dict[str, bool]:
    """What must hold of a run in which the monitor was killed."""
    written = [json.dumps(ending.evidence, sort_keys=True) for ending in (calm, disturbed)]
    # The two stores have two configurations, which say where they lie.
    decisions = [[{**payload, "config_hash": ""} for payload in ending.decisions] for ending in (calm, disturbed)]
    names = [tuple(payload["alarm"] for payload in ending.alarms) for ending in (calm, disturbed)]
    return {
        "same e-values to the bit": written[0] == written[1],
        "same alarms, each once": names[0] == names[1] and len(set(names[1])) == len(names[1]),
        "same decisions": decisions[0] == decisions[1],
        "each job submitted once": len(disturbed.submitted) == len(set(disturbed.submitted)) == len(calm.submitted),
        "no label lost": calm.evidence["labelled"] == disturbed.evidence["labelled"],
    }
