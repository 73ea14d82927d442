"""Rollouts of a good and of a bad candidate on flights, recorded and drawn.

    python jobs/benchmarks/recorded_rollouts.py [--quick] [--json PATH] [--out DIR]
    python jobs/benchmarks/recorded_rollouts.py --store ROOT --model NAME [--out DIR]

The first form trains three versions on flights of 2013 (January and February; January to May; the same with the
labels of one carrier flipped) and replays the flights from June on, request by request, labels two days late, through
the gateway, prediction log, label join and reconciler that serve, in one process and without Ray. It writes
``good.svg``, ``bad.svg`` and ``bad_without_shadow.svg`` with the evidence of every guard over time, prints a table,
and writes ``{"figures": {...}, "environment": {...}}``. The second form draws the rollouts that a running service has
recorded in its store, such as that of ``ray-mlops demo``.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.flights_models import CANDIDATE_END, fit_versions, flights_config
from jobs.benchmarks.in_process import LocalService
from ray_mlops.config import ReplayConfig, StoreConfig
from ray_mlops.console.views.evidence import band_key, draw_trail, trail_of_moves
from ray_mlops.demo.flights import departures
from ray_mlops.demo.replay import Day, replay_days
from ray_mlops.evaluation.timeline import panels
from ray_mlops.ledger import Ledger, LedgerEvent
from ray_mlops.runtime.files import Files
from ray_mlops.serving.rollout.state import OVER, parse_state
from ray_mlops.serving.rollout.trail import Trail, trail_path
from ray_mlops.training.bundle import ModelBundle

DAY_US = 86_400_000_000
FIRST_DAY = date(2013, 6, 1)
LABEL_DELAY = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done."""

    train_rows_per_day: int
    epochs: int
    requests_per_day: int
    days: int

    @classmethod
    def of(cls, quick: bool) -> "Size":
        return cls(200, 4, 200, 30) if quick else cls(300, 8, 300, 45)


@dataclass(frozen=True, slots=True)
class Case:
    """One rollout that is recorded."""

    name: str
    title: str
    version: str
    options: Mapping[str, Any] = field(default_factory=dict)
    skip_shadow: bool = False


CASES = (
    Case("good", "A good candidate: trained on three more months than the champion", "good"),
    Case("bad", "A bad candidate: trained on flipped labels of one carrier", "bad"),
    Case(
        "bad_without_shadow",
        "The same bad candidate without a shadow: it answers users until the evidence is in",
        "bad",
        skip_shadow=True,
    ),
)


@dataclass(slots=True)
class Recorded:
    """What came of a case."""

    state: str = "pending"
    reason: str = ""
    days: int = 0
    requests: int = 0
    exposed: int = 0
    """Requests that the candidate answered before it was champion."""
    failed: int = 0
    labels: int = 0


async def record(case: Case, bundles: Mapping[str, ModelBundle], size: Size, root: Path) -> tuple[Recorded, str]:
    """Run a case; returns what came of it, and its picture."""
    config = flights_config(root, size.epochs, **case.options)
    chosen = {"1": bundles["champion"], "2": bundles[case.version]}
    end_us = int(datetime.fromisoformat(f"{CANDIDATE_END}T23:59:59+00:00").timestamp() * 1e6)
    start_s = datetime.combine(FIRST_DAY, datetime.min.time(), UTC).timestamp()
    service, found = LocalService(config, chosen, end_us, start_s), Recorded()
    await service.open()
    await service.close_window(int(start_s * 1e6) // DAY_US - 1)
    await service.reconciler.request("2", "benchmark", skip_shadow=case.skip_shadow)
    waiting: list[Day] = []
    for day in _days(size):
        await _post(service, day, found)
        waiting.append(day)
        for ready in [one for one in waiting if one.day + LABEL_DELAY <= day.day]:
            waiting.remove(ready)
            found.failed += await service.feedback(list(ready.labels)) != 200
            found.labels += len(ready.labels)
        window = (day.day - date(1970, 1, 1)).days
        found.state, found.days = await service.close_window(window), found.days + 1
        if parse_state(found.state)[0] in OVER:
            break
    moves = service.ledger.read(f"{service.model}/rollout", kind="rollout.moved")
    found.reason = _why(moves)
    await service.close()
    picture = draw(service.files, service.model, str(moves[0].payload["rollout_id"]), moves, case.title)
    return found, picture


async def _post(service: LocalService, day: Day, found: Recorded) -> None:
    """Post a day's requests; the candidate's count as exposed until it is champion."""
    for ids, instances in day.requests:
        status, version = await service.predict(instances, ids)
        champion = service.reconciler.record.routes.champion.version if service.reconciler.record.routes else ""
        found.requests += 1
        found.failed += status != 200
        found.exposed += version == "2" != champion


def _days(size: Size) -> Iterator[Day]:
    last = FIRST_DAY + timedelta(days=size.days - 1)
    table: pa.Table = departures(FIRST_DAY.isoformat(), last.isoformat())
    replay = {"start": FIRST_DAY, "end": last, "rows_per_day": size.requests_per_day, "rows_per_request": 1}
    config = flights_config(Path("unused"), size.epochs)
    chosen = ReplayConfig.model_validate({**replay, "label_delay": LABEL_DELAY, "seed": 7})
    return replay_days(table, config.data, chosen)


def _why(moves: list[LedgerEvent]) -> str:
    """Why a rollout went the way it went: the reason of the decision, not of what followed from it."""
    deciding = ("promoting", "rolling_back", "invalid", "aborted")
    return next((str(e.payload["reason"]) for e in reversed(moves) if e.payload["to"] in deciding), "")


def draw(files: Files, model: str, rollout_id: str, moves: list[LedgerEvent], title: str) -> str:
    """Draw the recorded evidence of a rollout as one picture."""
    path = trail_path(model, rollout_id)
    trail: Mapping[str, Any] = trail_of_moves(moves)
    if files.exists(path):
        trail = Trail.from_json(json.loads(files.read(path))).to_json()
    ended = f"{moves[-1].payload['to'].replace('_', ' ')}: {_why(moves)}" if moves else "it has not begun"
    notes = (
        f"Rollout {rollout_id} ended as {ended}",
        "Log evidence of each guard at every look; dashed: where it speaks, ringed: where it first did. "
        "Limits are shares. Grey lines are dry runs.",
    )
    return panels(
        [figure["svg"] for figure in draw_trail(trail, moves)], title=title, notes=notes, legend=band_key(), width=503
    )


def draw_store(root: str, model: str, out: Path) -> list[Path]:
    """Draw every rollout that a store has recorded; returns the files."""
    store = StoreConfig(root=root)
    ledger, files = Ledger.open(store), Files(store.root_uri)
    by_rollout: dict[str, list[LedgerEvent]] = {}
    for event in ledger.read(f"{model}/rollout", kind="rollout.moved"):
        by_rollout.setdefault(str(event.payload["rollout_id"]), []).append(event)
    written = []
    for rollout_id, moves in by_rollout.items():
        path = out / f"{rollout_id}.svg"
        path.write_text(draw(files, model, rollout_id, moves, f"Rollout {rollout_id}"), encoding="utf-8")
        written.append(path)
    return written


def measure(size: Size, out: Path, report: Report) -> None:
    """Record every case, and put its picture into a directory."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="rollouts-") as directory:
        place = Path(directory)
        bundles = fit_versions(flights_config(place / "unused", size.epochs), size.train_rows_per_day)
        for case in CASES:
            found, picture = asyncio.run(record(case, bundles, size, place / case.name))
            (out / f"{case.name}.svg").write_text(picture, encoding="utf-8")
            report.figures.extend(_figures(case, found))
            rows.append({"rollout": case.name, "ended as": found.state, "days": found.days, "requests": found.requests})
            rows[-1] |= {"exposed": found.exposed, "labels": found.labels, "failed": found.failed, "why": found.reason}
    report.tables["recorded rollouts on flights"] = rows


def _figures(case: Case, found: Recorded) -> list[Figure]:
    wanted = "promoted" if case.version == "good" else "rolled_back"
    right = float(found.state == wanted)
    return [
        Figure(f"{case.name}_{wanted}", right, at_least=1.0, detail=found.reason),
        Figure(f"{case.name}_days", float(found.days), detail="days of event time until it was over"),
        Figure(f"{case.name}_exposed_requests", float(found.exposed), detail=f"of {found.requests} requests"),
        Figure(f"{case.name}_failed_requests", float(found.failed), at_most=0.0),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and days, for development")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--out", type=Path, default=Path(), help="directory of the pictures")
    parser.add_argument("--store", help="draw what a service has recorded in this store, and run nothing")
    parser.add_argument("--model", default="flights", help="with --store: the model")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.store is not None:
        for path in draw_store(given.store, given.model, given.out):
            print(f"wrote {path}")
        return
    report = Report()
    measure(Size.of(given.quick), given.out, report)
    print(report.text())
    if given.json is not None:
        report.write(given.json)


if __name__ == "__main__":
    main()
