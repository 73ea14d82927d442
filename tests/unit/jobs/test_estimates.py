"""What the benchmark of estimates makes of two sets of numbers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.benchmarks.estimates import _agreement, _direct, run_car_loan, run_car_price, run_multiclass

CLASSES = ("prepaid_card", "highstreet_card", "upmarket_card")


def write(directory: Path, name: str, make: object) -> None:
    for seed, part in enumerate(("reference", "analysis")):
        pq.write_table(make(np.random.default_rng(seed)), directory / f"{name}_{part}.parquet")  # type: ignore[operator]


def loans(generator: np.random.Generator) -> pa.Table:
    score = generator.random(400).round(2)
    label = (generator.random(400) < score).astype(float)
    return pa.table({"y_pred_proba": score, "y_pred": (score >= 0.65).astype(int), "repaid": label})


def cards(generator: np.random.Generator) -> pa.Table:
    shares = generator.dirichlet([1.0, 1.0, 1.0], 400)
    label = [CLASSES[k] for k in (generator.random(400)[:, None] > shares.cumsum(axis=1)).sum(axis=1)]
    guesses = [CLASSES[k] for k in shares.argmax(axis=1)]
    return pa.table(
        {f"y_pred_proba_{n}": shares[:, k] for k, n in enumerate(CLASSES)} | {"y_true": label, "y_pred": guesses}
    )


def prices(generator: np.random.Generator) -> pa.Table:
    names = ("car_age", "km_driven", "price_new", "accident_count", "door_count")
    numbers = {name: generator.normal(size=400) for name in names}
    words = {name: generator.choice(["a", "b"], 400) for name in ("fuel", "transmission")}
    shown = 10.0 + numbers["car_age"]
    return pa.table({**numbers, **words, "y_pred": shown, "y_true": shown + generator.normal(size=400)})


def test_equal_estimates_meet_the_limit_and_others_do_not(tmp_path: Path) -> None:
    write(tmp_path, "car_loan", loans)
    write(tmp_path, "multiclass", cards)
    ours = {"car_loan": run_car_loan(tmp_path, 100, 1), "multiclass": run_multiclass(tmp_path, 100, 1)}
    own = {
        "car_loan": {"roc_auc": ours["car_loan"].values("auc"), "accuracy": ours["car_loan"].values("accuracy")},
        "multiclass": {"accuracy": ours["multiclass"].values("accuracy")},
    }
    theirs = {name: {"values": values, "uncalibrated": []} for name, values in own.items()}
    figure = _agreement(ours, ours["multiclass"], theirs)
    assert (figure.value, figure.verdict) == (0.0, "met")
    own["car_loan"]["roc_auc"][2] += 0.01
    assert _agreement(ours, ours["multiclass"], theirs).value == pytest.approx(0.01)
    left = run_multiclass(tmp_path, 100, 1, CLASSES)
    assert _agreement(ours, left, theirs).value != pytest.approx(0.01)


def test_direct_estimates_are_held_against_the_labels(tmp_path: Path) -> None:
    write(tmp_path, "car_price", prices)
    ours = run_car_price(tmp_path, 100, 1)
    values = {"mae": [2.0 * value for value in ours.values("mae")]}
    theirs = {"car_price": {"values": values, "chunk_rows": 100, "fit_s": [1.0], "estimate_s": [1.0]}}
    figure = _direct({"car_price": ours}, theirs, tmp_path)
    assert figure.value is not None
    assert 0.7 < figure.value < 1.4
    assert "theirs by" in figure.detail
