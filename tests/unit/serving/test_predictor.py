"""A loaded version: timing, parity, and what counts as an answer."""

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.errors import BundleError, FeatureError
from ray_mlops.serving.predictor import INLINE_LIMIT_S, Predictor
from ray_mlops.training.bundle import Prediction

ROW = {"distance": 200.0, "carrier": "UA"}


@pytest.fixture
def predictor(kit: Any) -> Predictor:
    return Predictor(kit.build_bundle())


def test_rows_and_table_give_the_same_bits(predictor: Predictor) -> None:
    rows = [ROW, {"distance": None, "carrier": None}, {"distance": 1e6, "carrier": "nowhere"}]
    table = pa.table({name: [row[name] for row in rows] for name in ROW})
    assert np.array_equal(predictor.predict_rows(rows).values, predictor.predict_table(table).values)


def test_wrong_type_names_column_and_row(predictor: Predictor) -> None:
    with pytest.raises(FeatureError, match="column 'distance', row 1"):
        predictor.predict_rows([ROW, {"distance": "far", "carrier": "UA"}])


def test_keys_that_are_no_inputs_are_ignored(predictor: Predictor) -> None:
    assert predictor.predict_rows([{**ROW, "wind": 3}]).values == predictor.predict_rows([ROW]).values


def test_before_the_warm_up_nothing_runs_on_the_event_loop(predictor: Predictor) -> None:
    assert not predictor.is_quick(1)
    predictor.warm_up()
    assert predictor.is_quick(1)
    assert not predictor.is_quick(100_000_000) or predictor._row_s == 0


def test_slow_model_runs_in_its_own_thread(predictor: Predictor) -> None:
    threads: list[str] = []

    def note() -> float:
        threads.append(threading.current_thread().name)
        time.sleep(2 * INLINE_LIMIT_S)
        return 0.0

    predictor.bundle.model.fault = note  # type: ignore[assignment]
    predictor.warm_up()
    assert not predictor.is_quick(1)
    threads.clear()
    answer = asyncio.run(predictor.answer([ROW]))
    assert threads == ["predictor_0"]
    assert answer.seconds >= 2 * INLINE_LIMIT_S


def test_self_check_passes_and_fails(kit: Any) -> None:
    bundle = kit.build_bundle()
    Predictor(bundle).self_check(1e-5)
    wrong = replace(bundle.parity, values=bundle.parity.values + 1e-3)
    with pytest.raises(BundleError, match=r"differ by up to 0\.001"):
        Predictor(replace(bundle, parity=wrong)).self_check(1e-5)


def test_self_check_fails_on_nan(kit: Any) -> None:
    bundle = kit.build_bundle("regression")
    bundle.model.fault = lambda: float("nan")
    with pytest.raises(BundleError):
        Predictor(bundle).self_check(1e-5)


@pytest.mark.parametrize(
    ("task", "values", "fault"),
    [
        ("binary", [0.5, 1.0], ""),
        ("binary", [0.5], "has shape"),
        ("binary", [0.5, 1.01], "is no probability"),
        ("binary", [0.5, np.nan], "is not finite"),
        ("regression", [5.0, -1e9], ""),
        ("regression", [5.0, np.inf], "is not finite"),
        ("multiclass", [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], ""),
        ("multiclass", [0.2, 0.3], "has shape"),
    ],
)
def test_faults_of_predictions(kit: Any, task: Any, values: list[Any], fault: str) -> None:
    predictor = Predictor(kit.build_bundle(task))
    found = predictor.fault(Prediction(task, np.array(values), kit.CLASSES[task]), 2)
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


def test_prediction_of_another_task_is_a_fault(kit: Any) -> None:
    found = Predictor(kit.build_bundle("binary")).fault(Prediction("regression", np.array([0.5])), 1)
    assert "task regression" in found
