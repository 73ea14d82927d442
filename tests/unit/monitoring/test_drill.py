"""Fire drills on a small world whose columns, dependence and labels are known."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import MonitoringConfig, ProjectConfig, build_config
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import DataError, MonitoringError
from ray_mlops.monitoring.channels import ColumnEvidence
from ray_mlops.monitoring.drill.injections import INJECTIONS, eligible_columns, slice_mask
from ray_mlops.monitoring.drill.messages import message_lines, told_of
from ray_mlops.monitoring.drill.report import false_alarms, report_lines, summarise
from ray_mlops.monitoring.drill.run import Drill, FaultRun, Plan, Repeat
from ray_mlops.monitoring.drill.stream import Stretch, joined, permuted
from ray_mlops.monitoring.drill.watch import channels_that_speak, is_named, label_lag
from ray_mlops.orchestration.drill import run_drill
from ray_mlops.training.bundle import Manifest, ModelBundle
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.prediction import Prediction

HOUR = 3_600_000_000
WINDOWS, ROWS = 60, 120
CONTENT: dict[str, Any] = {
    "name": "m",
    "data": {"source": {"path": "rows.parquet"}, "task": "binary", "target": "y", "event_time": "time"},
    "monitoring": {
        "window": "1h",
        "min_window_rows": 20,
        "reference": {"windows": 40, "min_windows": 8},
        "labels": {"delay": "2h"},
    },
}


def config() -> ProjectConfig:
    return build_config(CONTENT, {})


def table() -> pa.Table:
    """Number x, number z that follows it, a city; y hangs on x."""
    rng = np.random.default_rng(0)
    n = WINDOWS * ROWS
    event_us = np.repeat(np.arange(WINDOWS), ROWS) * HOUR + np.sort(rng.integers(0, HOUR, n))
    x = rng.normal(5.0, 1.0, n)
    z = x + 0.3 * rng.normal(size=n)
    city = rng.choice(["Oslo", "Rome", "Wien"], n, p=[0.5, 0.3, 0.2])
    y = (rng.random(n) < 1.0 / (1.0 + np.exp(-4.0 * (x - 5.0)))).astype(int)
    stamps = pa.array(np.sort(event_us), pa.timestamp("us", tz="UTC"))
    return pa.table({"time": stamps, "x": x, "z": z, "city": city, "y": y})


class Informed(ModelBundle):
    """Knows by what law y hangs on x."""

    def predict(self, rows: Any) -> Prediction:
        x = np.nan_to_num(rows["x"].to_numpy(), nan=5.0)
        return Prediction("binary", 1.0 / (1.0 + np.exp(-4.0 * (x - 5.0))), self.classes, 0.5)


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    rows, settings = table(), config()
    features, profile, _ = fit_features_and_profile(rows, settings.data, settings.monitoring)
    encoder = TargetEncoder.fit(rows, settings.data)
    spec = ModelSpec("binary", len(features.numeric_names), features.categorical_sizes, 1)
    params = {"hidden": 4, "members": 1, "depth": 1}
    factory = "ray_mlops.training.models:tabular"
    manifest = Manifest("m", "binary", "y", encoder.classes, factory, params, spec)
    made = Informed(manifest, features, build_model(factory, spec, params), profile, None)  # type: ignore[arg-type]
    values = made.predict(rows).values
    event_us = rows["time"].cast(pa.int64()).to_numpy()
    losses = (values - rows["y"].to_numpy()) ** 2
    scored = profile.with_scores(values, event_us, losses, monitoring=settings.monitoring)
    return made.with_profile(scored.with_importance({"x": 0.6, "z": 0.3, "city": 0.1}))


def stretch(bundle: ModelBundle) -> Stretch:
    rows = table()
    window = rows["time"].cast(pa.int64()).to_numpy() // HOUR
    inputs = bundle.features.canonical_table(rows)
    latency = np.random.default_rng(1).lognormal(5.0, 0.2, len(rows))
    return Stretch(inputs, rows["y"].to_numpy().astype(float), window, latency, window, 2)


@pytest.fixture(scope="module")
def drill(bundle: ModelBundle) -> Drill:
    return Drill(bundle, config(), stretch(bundle), Plan(tuple(INJECTIONS), repeats=3, clean=8, windows=8))


@pytest.fixture(scope="module")
def report(drill: Drill) -> Any:
    return run_drill(drill, "snapshot")


# -- faults -------------------------------------------------------------------------------------------


def injected(bundle: ModelBundle, fault: str, column: str) -> tuple[Stretch, Stretch]:
    whole = stretch(bundle)
    before, after = (joined([whole.part(w) for w in span]) for span in (range(30), range(30, 40)))
    return after, INJECTIONS[fault].inject(after, column, before, np.random.default_rng(0))  # type: ignore[index]


def test_fault_changes_its_column_and_nothing_else(bundle: ModelBundle) -> None:
    for name, injection in INJECTIONS.items():
        column = "city" if injection.on == "categories" else "x"
        was, now = injected(bundle, name, column)
        changed = {c for c in was.inputs.column_names if not was.inputs[c].equals(now.inputs[c])}
        assert changed == ({column} if injection.names_column else set()), name
        assert now.inputs.schema == was.inputs.schema
        assert (now.window == was.window).all()


def test_each_fault_is_as_large_as_it_says(bundle: ModelBundle) -> None:
    was, now = injected(bundle, "unit_change", "x")
    assert np.allclose(now.inputs["x"].to_numpy(), 1.6 * was.inputs["x"].to_numpy())
    was, now = injected(bundle, "mean_shift", "x")
    assert (now.inputs["x"].to_numpy() - was.inputs["x"].to_numpy()).mean() == pytest.approx(0.5, abs=0.02)
    assert injected(bundle, "null_column", "city")[1].inputs["city"].null_count == 10 * ROWS
    assert injected(bundle, "nulls", "x")[1].inputs["x"].null_count == pytest.approx(240, abs=45)
    share = [
        s.inputs["city"].to_pylist().count("Oslo") / (10 * ROWS) for s in injected(bundle, "category_shift", "city")
    ]
    assert share[1] - share[0] == pytest.approx(0.05, abs=0.02), "a tenth of the rows, half of which had it already"
    assert len(set(injected(bundle, "frozen_feature", "x")[1].inputs["x"].to_pylist())) == 1
    was, now = injected(bundle, "latency", "")
    assert np.allclose(now.latency_us, 2.0 * was.latency_us)


def test_shuffle_keeps_every_window_s_own_values(bundle: ModelBundle) -> None:
    was, now = injected(bundle, "joint_shuffle", "x")
    for window in was.windows:
        values = [sorted(each.part(window).inputs["x"].to_pylist()) for each in (was, now)]
        assert values[0] == values[1]
    assert was.inputs["x"] != now.inputs["x"]


def test_labels_are_flipped_in_the_slice_only(bundle: ModelBundle) -> None:
    was, now = injected(bundle, "label_flip", "city")
    inside = slice_mask(was, "city", was)
    assert (now.target[inside] == 1.0 - was.target[inside]).all()
    assert (now.target[~inside] == was.target[~inside]).all()
    assert inside.mean() == pytest.approx(0.5, abs=0.05)


def test_labels_that_are_values_are_mirrored(bundle: ModelBundle) -> None:
    before = replace(stretch(bundle), target=np.full(WINDOWS * ROWS, 10.0), num_classes=0)
    number = replace(before, target=np.arange(WINDOWS * ROWS, dtype=float))
    now = INJECTIONS["label_flip"].inject(number, "city", before, np.random.default_rng(0))
    inside = slice_mask(number, "city", before)
    assert np.allclose(now.target[inside], 20.0 - number.target[inside])


def test_columns_that_a_fault_can_befall_come_by_importance(bundle: ModelBundle) -> None:
    whole, columns, profile = stretch(bundle), bundle.features.columns, bundle.profile
    found = {name: eligible_columns(i, columns, profile, whole) for name, i in INJECTIONS.items()}
    assert found["null_column"] == ["x", "z", "city"]
    assert found["unit_change"] == ["x", "z"]
    assert found["category_shift"] == ["city"]
    assert found["joint_shuffle"] == ["x", "z"]
    assert found["latency"] == [""]
    stuck = whole.with_column("x", pa.repeat(1.0, len(whole.window)))
    assert eligible_columns(INJECTIONS["frozen_feature"], columns, profile, stuck) == ["z", "city"]


# -- windows ------------------------------------------------------------------------------------------


def test_windows_change_places_within_their_stratum_only() -> None:
    order = permuted(range(40), [i % 4 for i in range(40)], np.random.default_rng(0))
    assert list(order) == list(range(40))
    assert sorted(order.values()) == list(range(40))
    assert all(place % 4 == window % 4 for place, window in order.items())
    assert any(place != window for place, window in order.items())


def test_part_and_join_give_the_rows_back(bundle: ModelBundle) -> None:
    whole = stretch(bundle)
    again = joined([whole.part(window) for window in whole.windows])
    assert again.inputs.equals(whole.inputs)
    assert (again.target == whole.target).all()
    assert (again.latency_us == whole.latency_us).all()


def test_too_few_windows_are_refused_with_the_number_needed(bundle: ModelBundle) -> None:
    whole = stretch(bundle)
    few = joined([whole.part(window) for window in range(20)])
    with pytest.raises(DataError, match=r"20 windows .* a drill needs 28"):
        Drill(bundle, config(), few, Plan(("nulls",), clean=10, windows=10))


def test_column_that_no_fault_can_befall_is_refused(bundle: ModelBundle) -> None:
    plan = Plan(("unit_change",), repeats=1, column="city")
    with pytest.raises(MonitoringError, match=r"'city'.*no fault can befall it"):
        Drill(bundle, config(), stretch(bundle), plan).run()


def test_label_lag_rounds_up() -> None:
    monitoring = MonitoringConfig.model_validate({"window": "1h", "labels": {"delay": "90m"}})
    assert label_lag(monitoring) == 2
    assert label_lag(MonitoringConfig.model_validate({"window": "1h", "labels": {"delay": "0s"}})) == 0


# -- monitors -----------------------------------------------------------------------------------------


def evidence(weight: float, derived: tuple[str, ...] = (), is_score: bool = False, **channels: float) -> ColumnEvidence:
    return ColumnEvidence(weight, max(channels.values(), default=0.0), channels, derived, is_score)


def test_each_kind_of_channel_speaks_at_the_level_of_its_own_weighted_mean() -> None:
    columns = {
        "x": evidence(0.3, location=6.0, shape=0.0),
        "z": evidence(0.3, location=0.0, shape=0.0),
        "x~z": evidence(0.1, ("x", "z"), location=9.0),
        "prediction": evidence(0.3, is_score=True, location=4.0),
    }
    assert channels_that_speak(columns, 5.0) == {"location": ("x",), "joint": ("x~z",)}
    assert channels_that_speak(columns, 6.0) == {"joint": ("x~z",)}, "6 - ln 2 is below"


def test_projection_names_both_of_its_columns() -> None:
    assert is_named("z", ("x~z",))
    assert not is_named("z", ("x", "z"))
    assert not is_named("z", ())


def test_drill_finds_what_is_there_to_find_and_says_nothing_before(report: Any) -> None:
    found = {each.fault: each for each in report.faults}
    assert list(found) == list(INJECTIONS)
    assert set(report.false_alarms.values()) == {0.0}
    for fault in ("null_column", "unit_change", "joint_shuffle", "latency", "frozen_feature"):
        assert found[fault].monitors["any"].power == 1.0, fault
    assert found["null_column"].monitors["contract"].median_delay == 1.0
    assert found["null_column"].monitors["any"].right_column == 1.0
    assert found["joint_shuffle"].monitors["joint"].power == 1.0
    assert found["joint_shuffle"].monitors["joint"].right_column == 1.0
    assert found["joint_shuffle"].monitors["location"].power == 0.0
    assert found["latency"].monitors["latency"].power == 1.0
    assert found["latency"].monitors["contract"].power == 0.0
    assert report.num_reference == 40


def test_loss_speaks_later_by_the_delay_of_the_labels(drill: Drill) -> None:
    delays = {}
    for delay in ("0s", "2h"):
        monitoring = {**CONTENT["monitoring"], "labels": {"delay": delay}}
        settings = build_config({**CONTENT, "monitoring": monitoring}, {})
        flipped = replace(drill, config=settings, plan=Plan(("label_flip",), repeats=2, clean=8, windows=8))
        delays[delay] = [run.delays["loss"] for repeat in flipped.run() for run in repeat.faults]
    assert delays["2h"] == [delay + 2 for delay in delays["0s"]]


def test_same_seed_gives_the_same_drill(drill: Drill) -> None:
    again = replace(drill, plan=replace(drill.plan, repeats=1))
    assert again.run() == replace(drill, plan=replace(drill.plan, repeats=1)).run()
    other = replace(drill, plan=replace(drill.plan, repeats=1, seed=1))
    assert other._order(np.random.default_rng([1, 0])) != again._order(np.random.default_rng([0, 0]))


def test_faults_do_not_see_each_other(drill: Drill) -> None:
    alone = replace(drill, plan=replace(drill.plan, repeats=1, faults=("latency",))).run()[0].faults[0]
    among = next(
        run
        for run in drill.repeat(0, {f: drill.columns_of(f) for f in drill.plan.faults}).faults
        if run.fault == "latency"
    )
    assert alone.delays == among.delays


# -- reports ------------------------------------------------------------------------------------------


def test_runs_with_an_alarm_before_the_fault_do_not_count() -> None:
    repeats = [
        Repeat({}, (FaultRun("nulls", "x", {"any": 2, "contract": 2}, {"any": True, "contract": True}),), False),
        Repeat({}, (FaultRun("nulls", "z", {"any": 4}, {"any": False}),), False),
        Repeat({}, (FaultRun("nulls", "x", {}, {}),), False),
        Repeat({"any": 3}, (FaultRun("nulls", "z", {"contract": 1}, {"contract": True}),), False),
    ]
    found = summarise(repeats)[0]
    whole, contract = found.monitors["any"], found.monitors["contract"]
    assert (whole.runs, whole.power, whole.median_delay, whole.right_column) == (3, 2 / 3, 4.0, 0.5)
    assert (contract.runs, contract.power, contract.median_delay) == (4, 0.5, 2.0)
    assert found.delays == (2, 4, None)
    assert found.columns == {"x": (2, 1), "z": (1, 1)}
    assert false_alarms(repeats)["any"] == 0.25


def test_report_shows_power_delay_and_what_was_missed(report: Any) -> None:
    text = "\n".join(report_lines(report))
    assert "null_column" in text
    assert "100% 1w" in text
    assert "false alarms" in text
    assert "Labels come 2 windows late" in text
    assert report.to_json()["faults"][0]["monitors"]["any"]["power"] == 1.0


def test_messages_are_those_of_service(report: Any) -> None:
    text = "\n".join(message_lines(report.faults, "m", "7"))
    assert "m: contract breach x:empty" in text
    assert "ray-mlops monitor ack contract:x:empty" in text
    assert "drift from the reference of version 7" in text or "drifted from the reference of version 7" in text
    assert "Nobody would be sent anything: it is no alarm. `ray-mlops monitor`" in text
    assert "== null_column: every value of a column is null, here x (noticed in window 1)" in text
    assert "What was done: retraining is blocked: contract broken: x:empty" in text


def test_messages_say_what_the_policy_would_have_done_and_how_the_column_moved(report: Any) -> None:
    found = {fault.fault: fault for fault in report.faults}
    told = told_of(found["mean_shift"], "m", "7")
    assert (told.column, told.nothing) == (found["mean_shift"].alarmed_column, "")
    text = told.notices[0].text
    assert "matured labelled rows in the training window" in text or "was decided" in text
    assert re.search(r"mean \d.* in this window, \d.* in the reference", text)
    assert told_of(found["latency"], "m", "7").notices == ()
