"""Channels on streams of windows whose rows depend on each other, as those of real days do."""

import json
from math import log

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.channels import DatasetMonitor, FeatureReference
from ray_mlops.monitoring.combination import column_weights
from ray_mlops.monitoring.feature import uniform
from ray_mlops.monitoring.window_channels import LocationChannel
from ray_mlops.statistics.bins import CategoricalBins, ColumnCounts, NumericBins
from ray_mlops.statistics.projections import fit_projections

ROWS, REFERENCE = 150, 40
CONFIG = MonitoringConfig()


class Stream:
    """Windows of three columns and a score; each day has a weather of its own."""

    def __init__(self, seed, num_windows=REFERENCE, rows=ROWS):
        self.rng = np.random.default_rng(seed)
        days = [self.day(rows) for _ in range(num_windows)]
        self.bins = {
            name: (CategoricalBins if name == "carrier" else NumericBins).from_sample(
                np.concatenate([day[name] for day in days])
            )
            for name in days[0]
        }
        self.reference = [self.count(day) for day in days]

    def day(self, rows=ROWS, shift=None):
        rng, shift = self.rng, shift or {}
        share = rng.dirichlet([40, 30, 20, 10])
        day = {
            "temp": 50 + rng.normal(0, 8) + rng.normal(0, 5, rows),
            "distance": rng.gamma(4, 250, rows) + 80,
            "carrier": rng.choice(["UA", "DL", "AA", "B6"], rows, p=share),
            "score": rng.beta(2, 6, rows) * rng.uniform(0.8, 1.0),
        }
        return {name: shift[name](values, rng) if name in shift else values for name, values in day.items()}

    def count(self, day):
        return {name: ColumnCounts.of(self.bins[name], values) for name, values in day.items()}

    def references(self, **options):
        return {
            name: FeatureReference(name, bins, tuple(w[name] for w in self.reference), **options.get(name, {}))
            for name, bins in self.bins.items()
        }

    def monitor(self, losses=(), config=CONFIG, with_score=False, **options):
        references = self.references(**options)
        score = references.pop("score")
        return DatasetMonitor(list(references.values()), score if with_score else None, losses, config)


def feed(monitor, stream, windows, shift=None, rows=ROWS, first=0):
    """Feed windows and return the verdicts."""
    verdicts = []
    for window in range(first, first + windows):
        counts = stream.count(stream.day(rows, shift))
        verdicts.append(monitor.update(window, {n: c for n, c in counts.items() if n != "score"}, counts["score"]))
    return verdicts


def first_alarm(verdicts):
    return next((i + 1 for i, verdict in enumerate(verdicts) if verdict.alarms), None)


def plus(amount):
    return lambda values, rng: values + amount


def times(factor):
    return lambda values, rng: values * factor


def nulls(ratio):
    return lambda values, rng: np.where(rng.random(len(values)) < ratio, np.nan, values)


def more_of(name, ratio):
    return lambda values, rng: np.where(rng.random(len(values)) < ratio, name, values)


# -- no drift ---------------------------------------------------------------------------------------------


def test_false_alarms_and_notices_stay_in_band_where_a_row_level_test_always_alarms():
    alarmed, noticed, row_level = 0, 0, 0
    for seed in range(16):
        stream = Stream(seed)
        verdicts = feed(stream.monitor(with_score=True), stream, 40)
        alarmed += first_alarm(verdicts) is not None
        noticed += any(verdict.notices for verdict in verdicts)
        assert not any(verdict.breaches for verdict in verdicts)
        pooled = np.sum([window["temp"].counts for window in stream.reference], axis=0)
        today = stream.count(stream.day())["temp"].counts
        used = pooled + today > 0
        row_level += chi2_contingency(np.stack([pooled[used], today[used]])).pvalue < 0.01 / 4
    assert alarmed <= 1  # alpha .01: 16 runs exceed 1 with probability 1 %
    assert noticed <= 3  # one false notice in 1000 windows: 640 windows exceed 3 with probability 0.4 %
    assert row_level >= 14


def test_fewer_rows_a_window_is_no_drift():
    most = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        windows = [rng.normal(size=2000) for _ in range(REFERENCE)]
        bins = NumericBins.from_sample(np.concatenate(windows))
        channel = LocationChannel(bins, [ColumnCounts.of(bins, window) for window in windows])
        evidence = []
        for _ in range(30):
            channel.update(ColumnCounts.of(bins, rng.normal(size=50)), 0.5)
            evidence.append(channel.log_r)
        most.append(max(evidence))
    assert np.median(most) < log(90)
    assert max(most) < log(1000)


def test_days_that_resemble_the_day_before_are_no_drift():
    hits = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        weather = rng.normal(size=REFERENCE + 60)
        for day in range(1, len(weather)):
            weather[day] = 0.7 * weather[day - 1] + 0.71 * weather[day]
        days = [mean + rng.normal(size=60) for mean in weather]
        bins = NumericBins.from_sample(np.concatenate(days[:REFERENCE]))
        counted = [ColumnCounts.of(bins, day) for day in days]
        channel = LocationChannel(bins, counted[:REFERENCE])
        most = 0.0
        for counts in counted[REFERENCE:]:
            channel.update(counts, 0.5)
            most = max(most, channel.log_e)
        hits += most >= log(20)
    assert hits <= 4  # binomial(24, .05) exceeds 4 with probability 0.6 %; days taken for independent: 17


def test_magnitudes_without_drift_are_called_noise():
    stream = Stream(0)
    monitor = stream.monitor()
    feed(monitor, stream, 10)
    for feature in monitor.view()["features"].values():
        assert feature["is_noise"]
        assert 0 < feature["expected"] < 0.6
    shifted = feed(monitor, stream, 1, {"distance": plus(1500.0)}, first=10)[0]
    assert not shifted.features["distance"]["is_noise"]


# -- drift ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "change", "slowest"),
    [
        ("carrier", more_of("UA", 0.3), 9),
        ("carrier", more_of("ZZ", 0.3), 8),
        ("distance", plus(150.0), 6),
        ("temp", plus(16.0), 14),
        ("distance", lambda values, rng: 1080 + (values - 1080) * 0.5, 8),
    ],
)
def test_drift_is_found_named_and_dated(column, change, slowest):
    delays = []
    for seed in range(3):
        stream = Stream(seed)
        monitor = stream.monitor()
        assert first_alarm(feed(monitor, stream, 20)) is None
        verdicts = feed(monitor, stream, 25, {column: change}, first=20)
        delays.append(first_alarm(verdicts))
        alarm = verdicts[delays[-1] - 1]
        assert alarm.alarms == ("inputs",)
        assert alarm.guilty[0] == column
        assert abs(alarm.change_point - 20) <= 3
        assert not alarm.breaches
        assert verdicts[-1].notices
    assert np.median(delays) <= slowest


def test_slow_season_is_drift_and_never_a_fault():
    stream = Stream(1)
    monitor = stream.monitor()
    verdicts = [feed(monitor, stream, 1, {"temp": plus(0.8 * day)}, first=day)[0] for day in range(60)]
    assert first_alarm(verdicts) is not None
    assert not any(verdict.breaches for verdict in verdicts)


def test_calendar_column_never_drifts():
    stream = Stream(2)
    monitor = stream.monitor(distance={"role": "calendar"})
    verdicts = feed(monitor, stream, 15, {"distance": plus(2000.0)})
    assert first_alarm(verdicts) is None
    assert verdicts[-1].features["distance"]["status"] == "calendar"
    assert not verdicts[-1].breaches


def test_score_alarm_is_told_from_inputs():
    stream = Stream(3)
    monitor = stream.monitor(with_score=True)
    verdicts = feed(monitor, stream, 12, {"score": lambda values, rng: np.sqrt(values)})
    alarm = verdicts[first_alarm(verdicts) - 1]
    assert alarm.alarms == ("score",)
    assert alarm.guilty == ("score",)
    assert monitor.describe("score")["guilty"] == ["score"]


def test_importance_decides_how_soon():
    delays = []
    for importance in (0.9, 0.01):
        stream = Stream(4)
        weights = {"distance": {"importance": importance}, "temp": {"importance": 1 - importance}}
        monitor = stream.monitor(**weights, carrier={"importance": 0.0})
        feed(monitor, stream, 10)
        delays.append(first_alarm(feed(monitor, stream, 20, {"distance": plus(120.0)}, first=10)))
    assert delays[0] < delays[1]


# -- columns together -------------------------------------------------------------------------------------


class Pair:
    """Two columns of which one follows from the other, and a third; their projection is watched."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        days = [self.day() for _ in range(REFERENCE)]
        pooled = {name: np.concatenate([day[name] for day in days]) for name in days[0]}
        self.projections = fit_projections(pooled, {}, 4)
        (self.member,) = self.projections.members
        pooled |= self.projections.of(pooled)
        self.bins = {name: NumericBins.from_sample(values) for name, values in pooled.items()}
        counted = [self.count(day) for day in days]
        self.references = [
            FeatureReference(
                name,
                bins,
                tuple(day[name] for day in counted),
                derived_from=(self.member.target, *self.member.explained_by) if name == self.member.name else (),
            )
            for name, bins in self.bins.items()
        ]

    def day(self):
        hours = self.rng.gamma(4, 1, ROWS)
        return {
            "hours": hours,
            "km": 500 * hours + self.rng.normal(0, 50, ROWS) + self.rng.normal(0, 20),
            "rain": self.rng.exponential(size=ROWS) * self.rng.uniform(0.5, 1.5),
        }

    def count(self, day):
        return {n: ColumnCounts.of(self.bins[n], v) for n, v in {**day, **self.projections.of(day)}.items()}

    def feed(self, monitor, windows, change=lambda day, rng: day, first=0):
        days = [self.count(change(self.day(), self.rng)) for _ in range(windows)]
        return [monitor.update(first + window, day) for window, day in enumerate(days)]


@pytest.mark.parametrize("seed", range(3))
def test_shuffle_that_leaves_every_column_as_it_was_is_found_and_the_pair_named(seed):
    pair = Pair(seed)
    monitor = DatasetMonitor(pair.references, None, [], CONFIG)
    alone = DatasetMonitor([r for r in pair.references if not r.derived_from], None, [], CONFIG)
    assert first_alarm(pair.feed(monitor, 20)) is None
    mixed = pair.feed(monitor, 15, lambda day, rng: {**day, "km": rng.permutation(day["km"])}, first=20)
    alarm = mixed[first_alarm(mixed) - 1]
    assert alarm.guilty == (pair.member.name,)
    assert {"hours", "km"} == set(pair.member.name.split("~"))
    assert first_alarm(pair.feed(alone, 30, lambda day, rng: {**day, "km": rng.permutation(day["km"])})) is None


def test_column_that_moved_is_named_and_not_its_projection():
    pair = Pair(3)
    monitor = DatasetMonitor(pair.references, None, [], CONFIG)
    verdicts = pair.feed(monitor, 12, lambda day, rng: {**day, "hours": day["hours"] + 1.5})
    assert "hours" in verdicts[-1].guilty
    assert pair.member.name not in verdicts[-1].guilty
    assert verdicts[-1].features[pair.member.name]["log_e"] > 0.0


def test_projection_of_a_broken_column_gives_no_evidence_and_is_no_breach():
    pair = Pair(4)
    monitor = DatasetMonitor(pair.references, None, [], CONFIG)
    pair.feed(monitor, 5)
    before = monitor.view()["features"][pair.member.name]["log_e"]
    verdicts = pair.feed(monitor, 6, lambda day, rng: {**day, "km": day["km"] * np.nan}, first=5)
    assert verdicts[-1].breaches == ("km:empty",)
    assert monitor.view()["features"][pair.member.name]["log_e"] == before


def test_projections_share_a_fixed_part_of_the_inputs_weight():
    references = Pair(5).references
    weights = column_weights(references, None, 0.3, 0.1)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert [weights[r.name] for r in references if r.derived_from] == pytest.approx([0.1])
    assert column_weights(references[:3], None, 0.3, 0.1)[references[0].name] == pytest.approx(1 / 3)


def test_reference_of_a_projection_survives_json_and_an_older_one_is_read():
    reference = Pair(6).references[-1]
    stored = json.loads(json.dumps(reference.to_json()))
    assert FeatureReference.from_json(stored).derived_from == reference.derived_from != ()
    del stored["derived_from"]
    assert FeatureReference.from_json(stored).derived_from == ()


# -- warming up -------------------------------------------------------------------------------------------


def test_windows_are_collected_in_place_of_a_short_reference():
    stream, needed = Stream(5, num_windows=14), CONFIG.reference.min_windows
    monitor = stream.monitor()
    verdicts = feed(monitor, stream, 30)
    assert [verdict.status for verdict in verdicts] == ["warming_up"] * (needed - 1) + ["testing"] * (31 - needed)
    assert first_alarm(verdicts) is None
    assert monitor.view()["features"]["temp"]["reference_windows"] == CONFIG.reference.min_windows


def test_after_warming_up_only_the_collected_windows_are_compared_with():
    channels = []
    for shift in (None, {"temp": plus(2.0)}):  # less than a day's weather, and far within what the fallback allows
        stream = Stream(5, num_windows=14)
        stream.reference = [stream.count(stream.day(shift=shift)) for _ in range(14)]
        monitor = stream.monitor()
        stream.rng = np.random.default_rng(50)
        verdicts = feed(monitor, stream, 40)
        assert verdicts[-1].status == "testing"
        channels.append(monitor.view()["features"]["temp"]["channels"])
    one, other = ({name: log_e for name, log_e in found.items() if name != "rows"} for found in channels)
    assert one == other
    assert any(one.values())
    assert channels[0]["rows"] != channels[1]["rows"]


def test_fallback_finds_drift_and_keeps_it_out_of_the_reference():
    stream = Stream(6, num_windows=6)
    config = CONFIG.model_copy(update={"tolerance": 0.02})
    monitor = stream.monitor(config=config)
    verdicts = feed(monitor, stream, 20, {"carrier": more_of("ZZ", 0.5)})
    assert first_alarm(verdicts) is not None
    assert verdicts[-1].guilty == ("carrier",)
    assert verdicts[-1].change_point == 0
    assert verdicts[-1].status == "warming_up"
    assert monitor.view()["features"]["carrier"]["reference_windows"] < CONFIG.reference.min_windows


def test_first_rainy_day_of_a_short_reference_is_no_proof():
    stream = Stream(6, num_windows=6)
    monitor = stream.monitor()
    verdicts = feed(monitor, stream, 1, {"distance": plus(1500.0)}) + feed(monitor, stream, 10, first=1)
    assert first_alarm(verdicts) is None


def test_no_reference_at_all_is_no_evidence_and_no_error():
    stream = Stream(7)
    stream.reference = []
    monitor = stream.monitor()
    assert monitor.log_e == pytest.approx(0.0)
    verdicts = feed(monitor, stream, 5)
    assert first_alarm(verdicts) is None
    assert verdicts[-1].status == "warming_up"


# -- faults -----------------------------------------------------------------------------------------------


def kinds(verdicts):
    return [set(verdict.breaches) for verdict in verdicts]


def test_empty_column_is_a_breach_at_once_gives_no_drift_and_clears():
    stream = Stream(8)
    monitor = stream.monitor()
    feed(monitor, stream, 5)
    before = monitor.view()["features"]["temp"]["log_e"]
    broken = feed(monitor, stream, 6, {"temp": nulls(1.1)}, first=5)
    assert kinds(broken) == [{"temp:empty"}] * 6  # one fault, one breach
    assert monitor.view()["features"]["temp"]["log_e"] == before
    assert monitor.describe("temp:empty")["value"] == 1.0
    assert first_alarm(broken) is None
    assert kinds(feed(monitor, stream, 2, first=11)) == [set(), set()]


def test_missing_column_is_a_breach_only_if_it_was_there():
    stream = Stream(9)
    monitor = stream.monitor()
    counts = {name: column for name, column in stream.count(stream.day()).items() if name != "score"}
    without = {name: column for name, column in counts.items() if name != "temp"}
    assert monitor.update(0, without).breaches == ()
    assert monitor.update(1, counts).breaches == ()
    assert monitor.update(2, without).breaches == ("temp:missing",)
    assert monitor.update(3, counts).breaches == ()


def test_nulls_are_judged_by_contract_by_evidence_and_by_jump():
    stream = Stream(10)
    declared = stream.monitor(temp={"max_null_ratio": 0.02})
    assert kinds(feed(declared, stream, 1, {"temp": nulls(0.2)})) == [{"temp:declared_nulls"}]
    assert kinds(feed(declared, stream, 1, {"temp": nulls(0.01)}, first=1)) == [set()]

    monitor = stream.monitor()
    tolerated = feed(monitor, stream, 30, {"temp": nulls(0.03)})
    assert not any(kinds(tolerated))
    slow = kinds(feed(monitor, stream, 20, {"temp": nulls(0.2)}, first=30))
    assert slow[0] == set()
    assert slow[-1] == {"temp:nulls"}
    jump = kinds(feed(stream.monitor(), stream, 2, {"temp": nulls(0.5)}))
    assert jump == [set(), {"temp:nulls"}]


def test_run_of_nulls_is_a_breach_in_spite_of_an_outage_in_the_reference():
    stream = Stream(16)
    stream.reference[7] = stream.count(stream.day(shift={"temp": nulls(1.1)}))
    monitor = stream.monitor()
    assert not any(kinds(feed(monitor, stream, 10)))
    found = kinds(feed(monitor, stream, 5, {"temp": nulls(0.2)}, first=10))
    assert found[-1] == {"temp:nulls"}
    assert not any(found[:3])
    state = json.loads(json.dumps(monitor.to_json()))
    again = stream.monitor()
    again.restore(state)
    assert kinds(feed(again, stream, 1, {"temp": nulls(0.2)}, first=15)) == [{"temp:nulls"}]
    del state["columns"]["temp"]["faults"]["runs"]  # as an older release stored it
    stream.monitor().restore(state)


def test_column_that_is_often_null_may_stay_so():
    stream = Stream(11)
    often = [nulls(ratio) for ratio in (0.1, 0.1, 0.95)]
    stream.reference = [stream.count(stream.day(shift={"temp": often[i % 3]})) for i in range(REFERENCE)]
    verdicts = feed(stream.monitor(), stream, 40, {"temp": nulls(0.9)})
    assert not any(kinds(verdicts))


def test_calm_week_of_a_column_that_is_null_in_calms_is_no_outage():
    stream = Stream(11)
    often = [nulls(ratio) for ratio in (0.7, 0.9, 0.99)]
    stream.reference = [stream.count(stream.day(shift={"temp": often[i % 3]})) for i in range(REFERENCE)]
    verdicts = feed(stream.monitor(), stream, 8, {"temp": nulls(1.1)})
    assert not any(kinds(verdicts))


def test_stuck_column_is_a_breach_and_a_naturally_constant_one_is_not():
    stream = Stream(12)
    assert kinds(feed(stream.monitor(), stream, 1, {"temp": times(0.0)}))[0] >= {"temp:constant"}
    stuck = kinds(feed(stream.monitor(), stream, 8, {"carrier": more_of("UA", 1.1)}))  # UA is often the most
    assert stuck[0] == set()
    assert stuck[-1] == {"carrier:constant"}

    def rain(values, rng):
        return np.where(rng.random(len(values)) < rng.choice([0.0, 0.0, 0.3]), values / 100, 0.0)

    stream.reference = [stream.count(stream.day(shift={"temp": rain})) for _ in range(REFERENCE)]
    assert not any(kinds(feed(stream.monitor(), stream, 20, {"temp": times(0.0)})))


@pytest.mark.parametrize(
    ("column", "change"),
    [("distance", times(1.609)), ("distance", times(1 / 1.609)), ("temp", lambda v, rng: (v - 32) / 1.8 - 40)],
)
def test_change_of_unit_is_a_breach_at_once(column, change):
    stream = Stream(13)
    monitor = stream.monitor()
    assert not any(kinds(feed(monitor, stream, 10)))
    before = monitor.view()["features"][column]["log_e"]
    assert kinds(feed(monitor, stream, 3, {column: change}, first=10)) == [{f"{column}:scale"}] * 3
    assert monitor.view()["features"][column]["log_e"] == before  # broken values are no evidence of drift
    assert kinds(feed(monitor, stream, 1, first=13)) == [set()]


def test_storm_is_not_a_change_of_unit():
    stream = Stream(14)
    monitor = stream.monitor()

    def storm(values, rng):
        return np.where(rng.random(len(values)) < 0.5, values * 2.5, values)

    assert not any(kinds(feed(monitor, stream, 3, {"distance": storm, "temp": plus(-25.0)})))


def test_values_outside_the_declared_domain_are_a_breach_above_a_share():
    stream = Stream(15)
    monitor = stream.monitor()
    counts = {name: column for name, column in stream.count(stream.day()).items() if name != "score"}
    assert monitor.update(0, counts, violations={"temp": 3}).breaches == ()
    assert monitor.update(1, counts, violations={"temp": 30}).breaches == ("temp:domain",)


# -- loss -------------------------------------------------------------------------------------------------


def losses(rng, windows, mean, spread=0.02):
    out = []
    for _ in range(windows):
        x = rng.beta(2, 2 / max(mean + rng.normal(0, spread), 0.01) - 2, ROWS)
        out.append((len(x), float(x.sum()), float((x**2).sum())))
    return out


def test_loss_alarm_rises_on_decay_and_not_on_noise_tolerance_or_improvement():
    false_alarms, delays = 0, []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        stream = Stream(0)
        known = losses(rng, REFERENCE, 0.12)
        for mean, expected in ((0.12, False), (0.08, False), (0.17, True)):
            monitor = stream.monitor(known)
            alarmed = []
            for window, loss in enumerate(losses(rng, 25, mean)):
                monitor.update_loss(window, loss)
                alarmed.append("loss" in monitor.alarms())
            if expected:
                delays.append(alarmed.index(True) + 1)
                assert monitor.change_point() <= 3
                assert monitor.describe("loss")["log_e"] > monitor.describe("loss")["limit"]
            else:
                false_alarms += any(alarmed)
    assert false_alarms <= 1
    assert np.median(delays) <= 14


def test_rise_within_the_tolerance_is_no_decay():
    rng = np.random.default_rng(0)
    for mean, expected in ((0.127, False), (0.15, True)):
        monitor = Stream(0).monitor(losses(rng, REFERENCE, 0.12, spread=0.001))
        for window, loss in enumerate(losses(rng, 60, mean, spread=0.001)):
            monitor.update_loss(window, loss)
        assert ("loss" in monitor.alarms()) == expected


def test_loss_without_reference_windows_enough_is_bet_on_without_assumptions():
    stream = Stream(1)
    monitor = stream.monitor([(200, 20.0, 4.0)])
    for window in range(10):
        monitor.update(window, {}, loss=(200, 90.0, 60.0))
    assert monitor.alarms() == ("loss",)
    quiet = stream.monitor([])
    quiet.update_loss(0, (10, 10.0, 10.0))
    assert quiet.alarms() == ()


# -- restarts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_windows", [REFERENCE, 15])
def test_restored_monitor_goes_on_to_the_bit(num_windows):
    stream = Stream(16, num_windows=num_windows)
    known = losses(np.random.default_rng(0), 20, 0.1)
    days = [stream.count(stream.day(shift={"temp": nulls(0.3 * (i % 3 == 2))})) for i in range(16)]
    later = losses(np.random.default_rng(1), 16, 0.13)

    def run(monitor, windows):
        return [
            monitor.update(i, {n: c for n, c in days[i].items() if n != "score"}, days[i]["score"], later[i])
            for i in windows
        ]

    whole = stream.monitor(known, with_score=True)
    expected = run(whole, range(16))
    first = stream.monitor(known, with_score=True)
    run(first, range(9))
    second = stream.monitor(known, with_score=True)
    second.restore(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    assert second.breaches() == first.breaches()
    assert run(second, range(9, 16)) == expected[9:]
    assert second.view() == whole.view()
    assert second.to_json() == whole.to_json()


def test_verdict_and_view_are_strict_json():
    stream = Stream(17)
    monitor = stream.monitor(losses(np.random.default_rng(0), 20, 0.1), with_score=True)
    verdict = feed(monitor, stream, 1, {"temp": nulls(1.1)})[0]
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["breaches"] == ["temp:empty"]
    view = json.loads(json.dumps(monitor.view(), allow_nan=False))
    assert view["features"]["temp"]["null_ratio"] == 1.0
    assert sum(feature["weight"] for feature in view["features"].values()) == pytest.approx(1.0)
    assert view["limit"] == pytest.approx(log(2 / CONFIG.alpha))
    reference = stream.references()["temp"]
    again = FeatureReference.from_json(json.loads(json.dumps(reference.to_json(), allow_nan=False)))
    assert again.to_json() == reference.to_json()


def test_random_number_of_a_window_is_its_own_and_repeatable():
    drawn = [uniform("temp", window) for window in range(2000)]
    assert drawn == [uniform("temp", window) for window in range(2000)]
    assert 0 < min(drawn) < 0.01 < 0.99 < max(drawn) <= 1
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.02)
    assert uniform("wind", 0) != uniform("temp", 0)
