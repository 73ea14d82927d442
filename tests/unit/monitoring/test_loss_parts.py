"""Whether a rise of the loss comes from other rows or from other truths, and when estimates are not shown."""

import json
from math import inf

import numpy as np
import pytest

from ray_mlops.config import EstimationConfig, MonitoringConfig
from ray_mlops.monitoring.channels import DatasetMonitor
from ray_mlops.monitoring.epoch import build_parts
from ray_mlops.monitoring.estimation import Calibration, decide_estimate
from ray_mlops.monitoring.loss_parts import LossParts, Part, decide_kind
from ray_mlops.statistics.estimator_fit import fit_classification
from ray_mlops.statistics.expected import Expected
from ray_mlops.statistics.losses import bounded_loss

ROWS, REFERENCE, WINDOWS = 400, 30, 30
CONFIG = MonitoringConfig()


def window(generator, shift=0.0, flip=None, spread=0.15):
    """Scores and labels of one window; days differ a little, `shift` moves x, `flip` turns labels round above it."""
    x = generator.normal(generator.normal(shift, spread), 1.0, ROWS)
    chance = 1.0 / (1.0 + np.exp(-(2.0 + 2.0 * x)))  # shifted downwards, rows are harder
    label = (generator.random(ROWS) < chance).astype(float)
    if flip is not None:
        label = np.where(x > flip, 1.0 - label, label)
    return 1.0 / (1.0 + np.exp(-(2.0 + 2.2 * x))), label


class Setting:
    """A reference, the estimator fitted on it, and a monitor of the loss."""

    def __init__(self, seed, **usual):
        self.generator = np.random.default_rng(seed)
        past = [window(self.generator, **usual) for _ in range(REFERENCE)]
        score, label = (np.concatenate(parts) for parts in zip(*past, strict=True))
        places = np.arange(len(score)) // ROWS
        self.estimator = fit_classification("binary", score, label, places, tuple(range(REFERENCE)))
        losses = [self.losses(*part) for part in past]
        self.monitor = DatasetMonitor([], None, losses, CONFIG, parts=build_parts(self.estimator, CONFIG))

    def losses(self, score, label):
        found = bounded_loss("binary", score, label)
        return len(found), float(found.sum()), float((found**2).sum())

    def gap(self, score, label):
        rows = self.estimator.estimate(score)
        return self.estimator.gap(rows, bounded_loss("binary", score, label), score, label)

    def run(self, windows=WINDOWS, start=0, **how):
        """Feed windows; returns the kind at the first loss alarm, or None."""
        for k in range(start, start + windows):
            score, label = window(self.generator, **how)
            self.monitor.update_loss(k, self.losses(score, label), self.gap(score, label))
            if "loss" in self.monitor.alarms():
                return self.monitor.describe("loss")["kind"]
        return None


def test_rows_that_are_harder_are_covariate_drift():
    kinds = [Setting(seed).run(shift=-0.8) for seed in range(10)]
    assert kinds.count("covariate") >= 9
    assert "concept" not in kinds


def test_labels_that_flip_in_a_region_are_concept_drift():
    kinds = [Setting(seed).run(flip=1.2) for seed in range(10)]
    assert kinds.count("concept") >= 9


def test_both_at_once_are_called_both():
    setting = Setting(3)
    setting.run(shift=-0.8, flip=0.4)
    for k in range(WINDOWS, 2 * WINDOWS):
        score, label = window(setting.generator, shift=-0.8, flip=0.4)
        setting.monitor.update_loss(k, setting.losses(score, label), setting.gap(score, label))
    assert setting.monitor.describe("loss")["kind"] == "both"


def test_no_change_raises_no_alarm_and_estimates_stay():
    for seed in range(10):
        setting = Setting(seed)
        assert setting.run() is None
        assert not setting.monitor.calibration().has_failed_by(WINDOWS)


@pytest.mark.parametrize("shift", [-0.8, -0.4, 0.8])
def test_concept_is_seldom_said_where_only_rows_drift(shift):
    said = 0
    for seed in range(60):
        setting = Setting(1000 + seed)
        for k in range(WINDOWS):
            score, label = window(setting.generator, shift=shift)
            setting.monitor.update_loss(k, setting.losses(score, label), setting.gap(score, label))
        view = setting.monitor.view()["loss_parts"]
        said += view["kind"] in ("concept", "both")
    assert said <= 3  # of 60; with probability 0.997 where it is 1 % at most


def test_alarm_states_its_kind_its_evidence_and_where():
    setting = Setting(5)
    assert setting.run(flip=1.2) == "concept"
    said = setting.monitor.describe("loss")
    assert "concept drift" in said["reason"]
    assert said["parts"]["concept"]["log_e"] >= said["parts"]["concept"]["limit"]
    assert said["parts"]["concept"]["change"] > 2.0 * abs(said["parts"]["covariate"]["change"])
    worst = said["score_bins"][0]
    assert worst["expected"] > 0.95 > 0.9 > worst["seen"]
    json.dumps(said, allow_nan=False)


def test_estimates_that_labels_contradict_are_found_in_both_directions():
    worse, better = Setting(6), Setting(7, flip=1.0)
    worse.run(flip=1.2)
    for k in range(WINDOWS):
        score, label = window(better.generator)
        better.monitor.update_loss(k, better.losses(score, label), better.gap(score, label))
    for setting in (worse, better):
        found = setting.monitor.calibration()
        assert found.log_e >= found.limit
        assert found.since is not None
        assert found.has_failed_by(found.since)
        assert not found.has_failed_by(found.since - 1)
        assert "beyond what was expected" in found.reason


def test_restored_parts_go_on_to_the_bit():
    one, two = Setting(8), Setting(8)
    days = [window(np.random.default_rng(k), flip=1.5) for k in range(20)]
    for k, day in enumerate(days):
        for setting in (one, two):
            setting.monitor.update_loss(k, setting.losses(*day), setting.gap(*day))
        content = json.loads(json.dumps(two.monitor.to_json()))
        two = Setting(8)
        two.monitor.restore(content)
    assert two.monitor.view() == one.monitor.view()
    assert two.monitor.to_json() == one.monitor.to_json()
    two.monitor.restore(content)  # as a drill goes back to a state of its own
    assert two.monitor.to_json() == content


def test_one_reference_window_is_bet_on_without_assumptions():
    setting = Setting(9)
    gaps = list(setting.estimator.windows.values())
    parts = LossParts([sum(gaps[1:], gaps[0])], setting.estimator.bins.labels, CONFIG)
    for k in range(60):
        parts.update(k, setting.gap(*window(setting.generator, flip=0.0)))
    assert parts.kind(0).kind == "concept"


@pytest.mark.parametrize(
    ("concept", "covariate", "kind"),
    [(9.0, 9.0, "both"), (9.0, 0.0, "concept"), (0.0, 9.0, "covariate"), (0.0, 0.0, "unclear"), (5.0, -inf, "concept")],
)
def test_kind_follows_from_which_part_is_proven(concept, covariate, kind):
    found = decide_kind(Part(concept, 5.0, 0.02), Part(covariate, 5.0, 0.01))
    assert found.kind == kind
    assert "+0.0200 beyond what was expected" in found.reason


def test_estimate_is_shown_only_where_it_may_be_believed():
    config, calm = EstimationConfig(), Calibration(9, 0.0, 4.6)
    failed = Calibration(9, 5.0, 4.6, 7, "the loss was +0.1000 beyond what was expected")
    sound = Expected(100, 0.0, 1000)

    def decide(expected=sound, calibration=calm, window=8):
        return decide_estimate(window, expected, calibration, 50, config)

    assert decide().is_shown
    assert decide(calibration=None).is_shown
    assert decide(calibration=failed, window=6).is_shown
    refusals = {
        "no estimator": decide(None),
        "49 rows, 50 are needed": decide(Expected(49, 0.0, 1000)),
        "25% of what it rests on lies outside": decide(Expected(100, 25.0, 1000)),
        "labels contradict it: the loss was +0.1000": decide(calibration=failed, window=7),
    }
    for reason, decision in refusals.items():
        assert not decision.is_shown
        assert reason in decision.reason
