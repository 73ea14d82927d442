"""A diagnosis on streams whose truth is known: which column moved, what the loss owes to it, which slice got worse."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.monitoring.diagnosis.classifier_test import area_under_curve, density_ratios, tell_apart
from ray_mlops.monitoring.diagnosis.loss_attribution import (
    DEPENDENCE,
    LABELS,
    attribute_loss,
    marginal_ratios,
)
from ray_mlops.monitoring.diagnosis.moved_slices import Side, moved_slices
from ray_mlops.monitoring.diagnosis.report import diagnose, diagnosis_lines

WINDOWS, ROWS = 20, 60


def rows(seed: int, shift: float = 0.0, share: float = 0.5, correlation: float = 0.0, day: float = 0.0) -> pa.Table:
    """x moves by ``shift``, city is Oslo with ``share``, z follows x by ``correlation``, each window by ``day``."""
    rng = np.random.default_rng(seed)
    n = WINDOWS * ROWS
    own_day = np.repeat(rng.normal(0.0, day, WINDOWS), ROWS)
    x = rng.normal(size=n) + shift + own_day
    z = correlation * x + np.sqrt(1.0 - correlation**2) * rng.normal(size=n)
    city = np.where(rng.random(n) < share, "Oslo", "Rome")
    return pa.table({"x": pa.array(x, mask=rng.random(n) < 0.02), "z": z, "city": city})


WINDOW = np.repeat(np.arange(WINDOWS), ROWS)


def test_classifier_names_the_column_that_moved() -> None:
    found = tell_apart(rows(1), rows(2, shift=1.0), WINDOW, WINDOW)
    assert found.auc > 0.7
    assert found.p_value < 1e-6
    assert found.features[0][0] == "x"
    assert found.features[0][1] > 10 * abs(found.features[1][1])
    assert (found.units, found.unit) == (2 * WINDOWS, "windows")


def test_classifier_finds_a_dependence_that_no_single_column_shows() -> None:
    found = tell_apart(rows(1, correlation=0.9), rows(2), WINDOW, WINDOW)
    assert found.p_value < 1e-6
    assert {name for name, _ in found.features[:2]} == {"x", "z"}


def test_classifier_p_value_is_not_small_too_often_although_rows_of_a_window_are_alike() -> None:
    by_window, by_row = [], []
    for seed in range(4):
        then, now = rows(seed, day=3.0), rows(seed + 500, day=3.0)
        by_window.append(tell_apart(then, now, WINDOW, WINDOW, columns=["x"], seed=seed).p_value)
        by_row.append(tell_apart(then, now, columns=["x"], seed=seed).p_value)
    assert min(by_window) > 0.01, "of four, below that with probability 0.04"
    assert max(by_row) < 0.05, "what counting rows would give"


def test_same_seed_gives_the_same_classifier_test() -> None:
    assert tell_apart(rows(1), rows(2), seed=3) == tell_apart(rows(1), rows(2), seed=3)


def test_one_window_cannot_be_compared_by_windows() -> None:
    with pytest.raises(ValueError, match="two windows"):
        tell_apart(rows(1), rows(2), np.zeros_like(WINDOW), WINDOW)


def test_area_under_curve_of_equal_scores_is_a_half() -> None:
    assert area_under_curve(np.ones(6), np.array([0, 1, 0, 1, 0, 1])) == 0.5


def test_density_ratios_follow_the_true_ratio() -> None:
    then = rows(1)
    ratio = density_ratios(then, rows(2, shift=0.7))
    x = then["x"].to_numpy()
    known = np.isfinite(x)
    assert np.corrcoef(np.log(ratio[known]), 0.7 * x[known])[0, 1] > 0.8


def attributed(then: pa.Table, now: pa.Table, loss: Any, **how: Any) -> dict[str, float]:
    found = attribute_loss(then, now, loss(then), loss(now), **how)
    parts = dict(found.parts)
    assert sum(parts.values()) == pytest.approx(found.change, abs=1e-12)
    return parts


def oslo_is_hard(table: pa.Table) -> Any:
    return np.where(np.array(table["city"].to_pylist()) == "Oslo", 0.8, 0.2)


def test_loss_that_rises_because_a_hard_category_grew_is_owed_to_that_column() -> None:
    parts = attributed(rows(1, share=0.3), rows(2, share=0.7), oslo_is_hard)
    assert parts["city"] == pytest.approx(0.6 * 0.4, abs=0.03)
    assert all(abs(part) < 0.02 for name, part in parts.items() if name != "city")


def test_parts_of_two_columns_that_both_moved_are_both_found() -> None:
    def loss(table: pa.Table) -> Any:
        x = np.nan_to_num(table["x"].to_numpy())
        return oslo_is_hard(table) / 2.0 + 0.2 * (x > 0.5)

    parts = attributed(rows(1, share=0.3), rows(2, share=0.7, shift=1.0), loss)
    risen = 0.2 * (0.6915 - 0.3085)
    assert parts["city"] == pytest.approx(0.3 * 0.4, abs=0.03)
    assert parts["x"] == pytest.approx(risen, abs=0.03)


def test_loss_that_rises_with_the_same_inputs_is_owed_to_the_labels() -> None:
    then, now = rows(1), rows(2)
    ratio = density_ratios(then, now)
    found = attribute_loss(then, now, np.full(len(then), 0.2), np.full(len(now), 0.5), joint_ratio=ratio)
    assert found.parts[0] == (LABELS, pytest.approx(0.3))
    assert dict(found.parts)[DEPENDENCE] == pytest.approx(0.0, abs=1e-9)


def test_loss_that_rises_because_columns_ceased_to_agree_is_owed_to_their_dependence() -> None:
    def loss(table: pa.Table) -> Any:
        x, z = (np.nan_to_num(table[name].to_numpy()) for name in ("x", "z"))
        return np.where(x * z < 0.0, 0.9, 0.1)

    then, now = rows(1, correlation=0.7), rows(2)
    parts = attributed(then, now, loss, joint_ratio=density_ratios(then, now))
    assert parts[DEPENDENCE] > 0.1
    assert abs(parts[LABELS]) < 0.06
    assert abs(parts["city"]) < 0.03


def test_values_that_the_reference_never_had_are_counted() -> None:
    ratio, beyond = marginal_ratios(pa.array(["a"] * 50 + ["b"] * 50), pa.array(["a"] * 25 + ["c"] * 75))
    assert beyond.mean() == 0.75
    assert ratio[0] > ratio[-1]
    found = attribute_loss(rows(1), rows(2, share=0.5), np.ones(1200), np.ones(1200))
    assert found.unsupported < 0.05
    assert found.effective_share > 0.5


def side(table: pa.Table, loss: Any) -> Side:
    return Side(table, WINDOW, loss(table))


def test_slice_that_grew_and_is_hard_comes_first_and_contributions_add_up() -> None:
    then, now = side(rows(1, share=0.3), oslo_is_hard), side(rows(2, share=0.7), oslo_is_hard)
    found = moved_slices(then, now, ["x", "city"])
    assert found[0].name == "city=Oslo"
    assert found[0].share.difference == pytest.approx(0.4, abs=0.05)
    assert found[0].share.is_clear
    assert found[0].loss is not None
    assert found[0].loss.difference == pytest.approx(0.0)
    change = float(now.loss.mean() - then.loss.mean())
    cities = [each.contribution for each in found if each.column == "city"]
    assert sum(part for part in cities if part is not None) == pytest.approx(change)
    assert not any(each.share.is_clear for each in found if each.column == "x")


def test_slice_that_got_worse_is_found_by_its_loss() -> None:
    def worse(table: pa.Table) -> Any:
        rng = np.random.default_rng(0)
        return np.where(np.array(table["city"].to_pylist()) == "Rome", 0.6, 0.2) + rng.normal(0.0, 0.01, len(table))

    def usual(table: pa.Table) -> Any:
        return 0.2 + np.random.default_rng(1).normal(0.0, 0.01, len(table))

    found = moved_slices(side(rows(1), usual), side(rows(2), worse), ["city"])
    assert found[0].name == "city=Rome"
    assert found[0].loss is not None
    assert found[0].loss.is_clear
    assert found[0].loss.difference == pytest.approx(0.4, abs=0.01)


def test_intervals_count_windows_so_that_alike_rows_prove_nothing() -> None:
    clear = 0
    for seed in range(30):
        then, now = (Side(rows(s, day=1.0), WINDOW, np.full(WINDOWS * ROWS, np.nan)) for s in (seed, seed + 900))
        clear += any(each.share.is_clear for each in moved_slices(then, now, ["x"]))
    assert clear <= 5, "binomial(30, 0.05) is above 5 with probability 0.003"


def test_slices_without_labels_are_compared_by_share() -> None:
    def unknown(table: pa.Table) -> Any:
        return np.full(len(table), np.nan)

    found = moved_slices(side(rows(1, share=0.3), unknown), side(rows(2, share=0.6), unknown), ["city"])
    assert [each.loss for each in found] == [None, None]
    assert found[0].share.is_clear


def test_diagnosis_says_in_words_what_moved() -> None:
    then, now = side(rows(1, share=0.3), oslo_is_hard), side(rows(2, share=0.7), oslo_is_hard)
    text = "\n".join(diagnosis_lines(diagnose(then, now, ["x", "z", "city"])))
    assert "can be told apart" in text
    assert "city=Oslo" in text
    assert "Mean loss 0.3" in text


def test_diagnosis_without_labels_says_so() -> None:
    def unknown(table: pa.Table) -> Any:
        return np.full(len(table), np.nan)

    found = diagnose(side(rows(1), unknown), side(rows(2), unknown), ["x", "z", "city"])
    assert found.attribution is None
    assert any("labelled rows" in note for note in found.notes)
    assert "cannot safely be told apart" in "\n".join(diagnosis_lines(found))
