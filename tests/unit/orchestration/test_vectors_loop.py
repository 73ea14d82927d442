"""A model with a column of vectors: trained, served, watched, drilled and looked into. No Ray."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.types.schema import Schema

from ray_mlops.config import ProjectConfig, build_config
from ray_mlops.data.snapshot import create_snapshot
from ray_mlops.data.source import source_table
from ray_mlops.data.target import TargetEncoder
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.comparison import compare
from ray_mlops.monitoring.drill.run import Plan
from ray_mlops.monitoring.epoch import Epoch, begin_epoch
from ray_mlops.monitoring.handover import build_handover
from ray_mlops.orchestration.dataset import dataset_of_table
from ray_mlops.orchestration.diagnosis import answer_lines, diagnose_alarm
from ray_mlops.orchestration.drill import drill_bundle
from ray_mlops.orchestration.fit import Fitted, fit_bundle
from ray_mlops.orchestration.start import propose_config
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.predictor import Predictor
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.routes import commit_routes
from ray_mlops.training.bundle import ModelBundle
from ray_mlops.training.here import train_here
from tests.unit.serving.conftest import Rig

DAY = 86_400_000_000
DAYS, ROWS, D = 40, 60, 12
ROTATION = np.linalg.qr(np.random.default_rng(7).normal(size=(D, D)))[0]
Vectors = npt.NDArray[np.float64]


def day_of(day: int) -> pa.Table:
    """Rows of one day: embeddings of length 1 about one direction, and two numbers."""
    rng = np.random.default_rng(day)
    vectors = rng.normal(size=(ROWS, D)) + np.linspace(-1, 1, D)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    x, z = rng.normal(size=ROWS), rng.normal(size=ROWS)
    y = (6 * vectors[:, 0] + x + rng.logistic(size=ROWS) > -1).astype(int)
    stamps = pa.array(day * DAY + np.sort(rng.integers(0, DAY, ROWS)), pa.timestamp("us", tz="UTC"))
    lists = pa.array([None if rng.random() < 0.02 else v.tolist() for v in vectors], pa.list_(pa.float64()))
    return pa.table({"id": [f"{day}-{i}" for i in range(ROWS)], "time": stamps, "x": x, "z": z, "v": lists, "y": y})


def changed(rows: pa.Table, change: Any) -> pa.Table:
    """Rows whose vectors have been changed; nulls stay."""
    vectors = [None if vector is None else change(np.array(vector)) for vector in rows["v"].to_pylist()]
    lists = [None if vector is None else vector.tolist() for vector in vectors]
    return rows.set_column(rows.column_names.index("v"), "v", pa.array(lists, pa.list_(pa.float64())))


def rotated(vector: Vectors) -> Vectors:
    return np.asarray(ROTATION @ vector)


def shifted(vector: Vectors) -> Vectors:
    moved = vector + 0.5 * np.eye(D)[3]
    return np.asarray(moved / np.linalg.norm(moved))


class Course:
    """Takes metrics of epochs."""

    run_id = "run"

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        pass


@dataclass
class Sink:
    """Keeps what the log hands over."""

    tables: list[pa.Table] = field(default_factory=list)

    def accept(self, model: str, version: str, rows: pa.Table) -> None:
        self.tables.append(rows)

    def close(self) -> None:
        pass


class Loop:
    """A model that was trained on the first days, behind a gateway, under watch."""

    def __init__(self, root: Path, fitted: Fitted | None = None) -> None:
        self.root = root
        self.past = pa.concat_tables([day_of(day) for day in range(DAYS)])
        pq.write_table(self.past, root / "rows.parquet")
        data = {"source": {"path": str(root / "rows.parquet")}, "task": "binary", "target": "y"}
        content: dict[str, Any] = {
            "name": "flights",
            "store": {"root": str(root / "store")},
            "data": {**data, "event_time": "time", "id": "id"},
            "training": {"params": {"hidden": 8, "members": 2}, "epochs": 8, "learning_rate": 0.02, "batch_size": 256},
            "monitoring": {"min_window_rows": 20, "reference": {"windows": DAYS, "min_windows": 8}},
        }
        self.config: ProjectConfig = build_config(content, {})
        self.files, self.ledger = Files(self.config.store.root_uri), Ledger.open(self.config.store)
        self.snapshot = create_snapshot(self.config.data, self.files)
        self.fitted = fitted or self.fit()
        saved = self.fitted.bundle.save(self.files)
        self.bundle = ModelBundle.load(saved.uri)
        payload = {"config": self.config.model_dump(mode="json"), "hash": "h"}
        self.ledger.append("flights/config", "config.deployed", "flights/config/h", payload)
        self.routes = ModelRoutes("flights", 0, Arm("1", saved.uri, saved.hash), config_hash="h")
        commit_routes(self.ledger, self.routes, 0)
        self.epoch: Epoch = begin_epoch("flights", self.ledger, self.files, None)
        self.sequence = 0

    def fit(self) -> Fitted:
        rows = source_table(self.config.data.source, event_time="time")
        encoder = TargetEncoder.fit(rows, self.config.data)
        dataset = dataset_of_table(self.config, rows, self.snapshot, encoder=encoder)
        return fit_bundle(self.config, dataset, Course(), name="r", train=train_here)

    def serve(self, days: Iterable[int], change: Any = None) -> list[Mapping[str, Any]]:
        """Send days to the gateway, hand over what it logs; returns the verdict of each window that was closed."""
        rows = [day_of(day) if change is None else changed(day_of(day), change) for day in days]
        tables = asyncio.run(self._answered(rows))
        monitor, reports = self.epoch.monitor, list[Mapping[str, Any]]()
        for table in tables:
            self.sequence += 1
            assert monitor.handover(build_handover("flights", "r", self.sequence, table, monitor.reference)).accepted
            reports += [report.verdict for report in iter(monitor.advance, None)]
        return reports

    async def _answered(self, days: list[pa.Table]) -> list[pa.Table]:
        self.sequence += 1
        rig, sink = Rig(self.root / f"rig{self.sequence}"), Sink()
        rig.bundles["one"] = self.bundle
        rig.settings = replace(rig.settings, event_time="time")
        rig.clock.now = 1e9
        log = PredictionLog(
            self.files, self.root / f"log{self.sequence}", f"r{self.sequence}", rig.serving.log, 60.0, sink
        )
        rig.change(predictions=log)
        await rig.apply(replace(self.routes, champion=replace(self.routes.champion, bundle="one")))
        async with rig.client() as client:
            for rows in days:
                body = {"instances": [self.instance(row) for row in rows.to_pylist()], "ids": rows["id"].to_pylist()}
                response = await client.post("/predict", json=body)
                assert response.status_code == 200, response.text
                await log.flush()
        await log.close()
        return sink.tables

    def instance(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"x": row["x"], "z": row["z"], "v": row["v"], "time": row["time"].isoformat()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    return Loop(tmp_path_factory.mktemp("vectors"))


@pytest.fixture
def loop(trained: Loop, tmp_path: Path) -> Loop:
    """The same model in a store of its own, watched from the beginning."""
    return Loop(tmp_path, trained.fitted)


def test_model_learns_from_vectors_and_they_matter_most(trained: Loop) -> None:
    bundle = trained.bundle
    assert {f"v[{i}]" for i in range(D)} <= set(bundle.features.numeric_names)
    importance = bundle.profile.importance
    assert set(importance) == {"x", "z", "v"}
    assert importance["v"] == max(importance.values())
    Predictor(bundle).self_check(1e-5)


def test_same_rows_and_seed_give_the_same_bundle(trained: Loop) -> None:
    assert trained.fit().bundle.save(trained.files).hash == trained.fitted.bundle.save(trained.files).hash


def test_mlflow_reads_the_signature_and_loads_the_bundle(trained: Loop) -> None:
    import mlflow.pyfunc

    loaded = mlflow.pyfunc.load_model(trained.routes.champion.bundle)
    column = {entry.name: entry for entry in loaded.metadata.signature.inputs.inputs}["v"]
    assert isinstance(loaded.metadata.signature.inputs, Schema)
    assert "Array" in str(column.type) or "array" in str(column.type).lower()
    rows = day_of(0).select(["x", "z", "v"]).slice(0, 5)
    given = loaded.predict(rows.to_pandas())["probability"]
    assert np.allclose(given, trained.bundle.predict(rows).values, atol=1e-6)


def test_undisturbed_stream_raises_no_alarm(loop: Loop) -> None:
    reports = loop.serve(range(DAYS, DAYS + 25))
    assert len(reports) >= 20
    assert not any(report["alarms"] or report["breaches"] for report in reports)
    assert {"x", "z", "v"} <= set(reports[-1]["features"])
    assert not any("direction" in name for name in reports[-1]["features"])


@pytest.mark.parametrize("change", [rotated, shifted])
def test_vectors_that_point_elsewhere_raise_an_alarm_that_names_their_column(loop: Loop, change: Any) -> None:
    assert not any(report["alarms"] for report in loop.serve(range(DAYS, DAYS + 4)))
    reports = loop.serve(range(DAYS + 4, DAYS + 14), change)
    raised = [report for report in reports if "inputs" in report["alarms"]]
    assert raised
    assert all(report["guilty"][0] == "v" for report in raised)
    assert not any(report["breaches"] for report in reports)
    told = loop.epoch.monitor.dataset.describe("inputs")
    assert told["guilty"] in (["v"], ["v", "prediction"])
    assert told["columns"]["v"]["number"].startswith("v.direction_")
    drift = loop.epoch.monitor.dataset.view()
    assert set(drift["features"]) == {"x", "z", "v", "prediction"}
    assert drift["features"]["v"]["log_e"] > drift["features"]["x"]["log_e"]


def test_null_vectors_are_a_breach_of_their_column(loop: Loop) -> None:
    assert not any(report["breaches"] for report in loop.serve(range(DAYS, DAYS + 3)))
    reports = loop.serve(range(DAYS + 3, DAYS + 6), lambda vector: None)
    assert "v:empty" in reports[-1]["breaches"]
    assert not any(breach.startswith("v.") for breach in reports[-1]["breaches"])


def test_logged_vectors_are_counted_as_they_were_when_they_were_served(loop: Loop) -> None:
    loop.serve(range(DAYS, DAYS + 4))
    reference = loop.epoch.monitor.reference
    again = build_handover("flights", "r", 1, read_predictions(loop.files, "flights"), reference).counts
    before = loop.epoch.monitor.history.past(DAYS * DAY, (DAYS + 2) * DAY)
    assert before is not None
    for name in ("v", "v.direction_00", "v.direction_15"):
        total = again[DAYS][name] + again[DAYS + 1][name]
        assert total.n == 2 * ROWS
        assert np.array_equal(total.counts, before.counts[name].counts)


# -- drills, comparisons, diagnoses -------------------------------------------------------------------


def test_drills_befall_vectors_and_their_column_is_named(trained: Loop) -> None:
    faults = ("null_column", "nulls", "unit_change", "mean_shift", "frozen_feature")
    plan = Plan(faults, repeats=2, clean=4, windows=8, column="v")
    found = drill_bundle(trained.config, "1", trained.bundle, plan, rows_from="snapshot", record=False)
    for fault in found.report.to_json()["faults"]:
        spoken = fault["monitors"]["any"]
        assert (spoken["power"], spoken["right_column"]) == (1.0, 1.0), fault["fault"]


def test_faults_of_single_values_do_not_befall_vectors(trained: Loop) -> None:
    plan = Plan(("category_shift",), repeats=1, clean=4, windows=4, column="v")
    with pytest.raises(Exception, match="no fault can befall it"):
        drill_bundle(trained.config, "1", trained.bundle, plan, rows_from="snapshot", record=False)


def test_diagnosis_looks_at_norm_and_directions(loop: Loop) -> None:
    loop.serve(range(DAYS, DAYS + 6), rotated)
    last = DAYS + 5
    payload = {"alarm": "drift:inputs", "level": "drift", "name": "inputs", "window": last, "window_us": DAY}
    payload |= {"version": loop.routes.champion.bundle, "reference": "r", "change_point": DAYS}
    loop.ledger.append("flights/monitor", "monitor.alarm", "flights/monitor/inputs", payload)
    found = diagnose_alarm(loop.config)
    lines = "\n".join(answer_lines(found))
    assert "v.direction_" in lines


def test_comparison_of_tables_names_the_direction(trained: Loop) -> None:
    before, after = trained.past, changed(trained.past, rotated)
    report = compare(before, after)
    assert all(name.startswith("v.direction_") for name in report.drifted)
    assert report.drifted


# -- the first steps ----------------------------------------------------------------------------------


def test_init_recognises_vectors(trained: Loop) -> None:
    proposal = propose_config(str(trained.root / "rows.parquet"), target="y")
    data = proposal.content["data"]
    assert {"name": "v", "type": "auto"} in data["features"]
    assert data["contract"]["columns"]["v"] == {
        "type": "vector",
        "length": D,
        "required": True,
        "max_null_ratio": pytest.approx(0.09, abs=0.04),
    }
