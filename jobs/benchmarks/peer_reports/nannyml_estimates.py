"""NannyML: performance without labels on the data sets in its package; imports nothing of ours.

``PROGRAM DIRECTORY REPETITIONS`` writes the data as Parquet files and prints, as the last line, what it estimates by
data set, metric and chunk, and the seconds of each repetition.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nannyml
import pandas as pd

CHUNK_ROWS = {"car_loan": 5000, "multiclass": 6000, "car_price": 6000}
CLASSES = ("prepaid_card", "highstreet_card", "upmarket_card")
FEATURES = ["car_age", "km_driven", "price_new", "accident_count", "door_count", "fuel", "transmission"]


def car_loan() -> Any:
    columns = {"y_pred_proba": "y_pred_proba", "y_pred": "y_pred", "y_true": "repaid"}
    chosen = {"metrics": ["roc_auc", "accuracy"], "problem_type": "classification_binary"}
    return nannyml.CBPE(**columns, **chosen, chunk_size=CHUNK_ROWS["car_loan"])


def multiclass() -> Any:
    scores = {name: f"y_pred_proba_{name}" for name in CLASSES}
    chosen = {"metrics": ["accuracy"], "problem_type": "classification_multiclass"}
    size = CHUNK_ROWS["multiclass"]
    return nannyml.CBPE(y_pred_proba=scores, y_pred="y_pred", y_true="y_true", chunk_size=size, **chosen)


def car_price() -> Any:
    columns = {"feature_column_names": FEATURES, "y_pred": "y_pred", "y_true": "y_true"}
    return nannyml.DLE(**columns, metrics=["mae", "rmse"], chunk_size=CHUNK_ROWS["car_price"])


SETS: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "car_loan": (nannyml.load_synthetic_car_loan_dataset, car_loan, "repaid"),
    "multiclass": (nannyml.load_synthetic_multiclass_classification_dataset, multiclass, "y_true"),
    "car_price": (nannyml.load_synthetic_car_price_dataset, car_price, "y_true"),
}


def with_target(analysis: pd.DataFrame, truth: pd.DataFrame, target: str) -> pd.DataFrame:
    """Analysis rows with their labels, which are only compared with, in the same order."""
    key = "id" if "id" in truth.columns and "id" in analysis.columns else None
    found = analysis.merge(truth[[key, target]], on=key) if key else analysis.assign(**{target: truth[target].values})
    return found.sort_index()


def measure(name: str, directory: Path, repetitions: int) -> dict[str, Any]:
    load, make, target = SETS[name]
    reference, analysis, truth = load()
    reference.to_parquet(directory / f"{name}_reference.parquet")
    with_target(analysis, truth, target).to_parquet(directory / f"{name}_analysis.parquet")
    fits, estimates, found = [], [], None
    for _ in range(repetitions):
        estimator = make()
        start = time.perf_counter()
        estimator.fit(reference)
        fitted = time.perf_counter()
        result = estimator.estimate(analysis)
        estimates.append(time.perf_counter() - fitted)
        fits.append(fitted - start)
        found = result.filter(period="analysis").to_df()
    metrics = [column for column, kind in found.columns if kind == "value"]
    values = {metric: found[metric, "value"].tolist() for metric in metrics}
    errors = {metric: found[metric, "sampling_error"].tolist() for metric in metrics}
    rows = CHUNK_ROWS[name]
    timed = {"fit_s": fits, "estimate_s": estimates, "chunk_rows": rows}
    return {"uncalibrated": uncalibrated(estimator, name), "values": values, "errors": errors, **timed}


def uncalibrated(estimator: Any, name: str) -> list[str]:
    """Classes whose probabilities it leaves as they are, because that looked better in its cross-validation."""
    if name != "multiclass":
        return []
    return [kind for kind in CLASSES if type(estimator._calibrators[kind]).__name__ == "NoopCalibrator"]


def main() -> None:
    directory, repetitions = Path(sys.argv[1]), int(sys.argv[2])
    found = {name: measure(name, directory, 1 if name == "car_price" else repetitions) for name in SETS}
    print(json.dumps({"version": version("nannyml"), "sets": found}))


main()
