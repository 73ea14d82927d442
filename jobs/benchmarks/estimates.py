"""Performance without labels, beside NannyML on the data sets in its package: the same rows, the same chunks.

Confidence-based estimates (CBPE) are the same calculation: isotonic calibration on the reference, then expectations.
They must agree but for rounding, and for the cells in which we count scores for the area under the ROC curve. Direct
loss estimates (DLE) come from another model of the error (boosted trees over bins, theirs is LightGBM), so that they
differ; both are held against the labels.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmarks.drift_reports import PROGRAMS
from jobs.benchmarks.environments import InstallError, ensure_environment
from jobs.benchmarks.figures import Figure, Report
from jobs.benchmarks.options import Options
from ray_mlops.statistics.bins import Bins, CategoricalBins, NumericBins
from ray_mlops.statistics.calibration import CalibrationMap
from ray_mlops.statistics.estimator_fit import fit_classification, fit_regression
from ray_mlops.statistics.expected import Expected

FloatArray = npt.NDArray[np.float64]

ROUNDING = 1e-6
"""Scores of these data have two decimals, so that each has a cell of its own."""
SPEEDUP = 1.0
PEER_TIMEOUT_S = 1500.0
CLASSES = ("prepaid_card", "highstreet_card", "upmarket_card")
FEATURES = ("car_age", "km_driven", "price_new", "accident_count", "door_count", "fuel", "transmission")
NAMES = {"roc_auc": "auc"}
"""Their names of metrics, where ours are others."""
AS_IT_IS = CalibrationMap(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
KEYS = ("cbpe_vs_nannyml", "cbpe_speedup", "dle_vs_nannyml")


@dataclass(frozen=True, slots=True)
class Ours:
    """Estimates of one data set."""

    chunks: list[Expected]
    fit_s: list[float]
    estimate_s: list[float]

    def values(self, metric: str) -> list[float]:
        """The estimate of each chunk."""
        return [chunk.metrics()[metric].value for chunk in self.chunks]


def measure(options: Options, report: Report) -> None:
    """Measure both estimators."""
    repetitions = 2 if options.quick else 5
    try:
        theirs = _theirs(options, repetitions)
    except (InstallError, subprocess.SubprocessError, OSError) as error:
        reason = " ".join(str(error).split())[-200:]
        report.figures += [Figure(key, None, detail=reason) for key in KEYS if key in options.keys]
        return
    sets, peer = theirs["sets"], f"nannyml {theirs['version']}"
    ours = {name: run(options.directory, sets[name]["chunk_rows"], repetitions) for name, run in RUNS.items()}
    alike = run_multiclass(options.directory, sets["multiclass"]["chunk_rows"], 1, sets["multiclass"]["uncalibrated"])
    lines = [line for name in ours for line in _compare(name, ours[name], sets[name], options.directory)]
    report.tables[f"estimates without labels beside {peer}, mean over the chunks"] = lines
    figures = (_agreement(ours, alike, sets), _speedup(ours, sets), _direct(ours, sets, options.directory))
    report.figures += [figure for figure in figures if figure.key in options.keys]


def _theirs(options: Options, repetitions: int) -> Any:
    python = ensure_environment("nannyml", options.environments) / "python"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_"))}
    result = subprocess.run(
        [str(python), str(PROGRAMS / "nannyml_estimates.py"), str(options.directory), str(repetitions)],
        capture_output=True,
        text=True,
        timeout=PEER_TIMEOUT_S,
        check=False,
        env={**kept, "NML_DISABLE_USAGE_LOGGING": "1"},
        cwd=options.directory,
    )
    if result.returncode:
        raise subprocess.SubprocessError(result.stderr.strip()[-400:])
    return json.loads(result.stdout.strip().splitlines()[-1])


def _timed(fit: Callable[[], Any], expect: Callable[[Any, slice], Expected], n: int, size: int, times: int) -> Ours:
    fits, estimates, chunks = [], [], []
    for _ in range(times):
        start = time.perf_counter()
        estimator = fit()
        fitted = time.perf_counter()
        chunks = [expect(estimator, slice(at, at + size)) for at in range(0, n, size)]
        for chunk in chunks:
            chunk.metrics()
        estimates.append(time.perf_counter() - fitted)
        fits.append(fitted - start)
    return Ours(chunks, fits, estimates)


def run_car_loan(directory: Path, size: int, times: int) -> Ours:
    """Binary: the threshold is the lowest score that their predictions call positive."""
    before, after = _tables(directory, "car_loan")
    score, label = _numbers(before, "y_pred_proba"), _numbers(before, "repaid")
    later = _numbers(after, "y_pred_proba")
    threshold = float(score[_numbers(before, "y_pred") == 1.0].min())
    windows = np.zeros(len(score), dtype=np.int64)
    fit = lambda: fit_classification("binary", score, label, windows, (0,), threshold)  # noqa: E731
    return _timed(fit, lambda estimator, part: estimator.expect(later[part]), len(later), size, times)


def run_multiclass(directory: Path, size: int, times: int, as_they_are: Collection[str] = ()) -> Ours:
    """Three classes.

    Args:
        directory: Where the data are.
        size: Rows of a chunk.
        times: Repetitions.
        as_they_are: Classes whose probabilities are not calibrated: NannyML decides that by cross-validation.
    """
    before, after = _tables(directory, "multiclass")
    prediction, later = (
        np.column_stack([_numbers(table, f"y_pred_proba_{name}") for name in CLASSES]) for table in (before, after)
    )
    label = _classes(before, "y_true")
    windows = np.zeros(len(label), dtype=np.int64)

    def fit() -> Any:
        found = fit_classification("multiclass", prediction, label, windows, (0,))
        assert found is not None
        pairs = zip(CLASSES, found.maps, strict=True)
        return replace(found, maps=tuple(AS_IT_IS if name in as_they_are else each for name, each in pairs))

    return _timed(fit, lambda estimator, part: estimator.expect(later[part]), len(later), size, times)


def run_car_price(directory: Path, size: int, times: int) -> Ours:
    """Regression."""
    before, after = _tables(directory, "car_price")
    shown, truth, later = _numbers(before, "y_pred"), _numbers(before, "y_true"), _numbers(after, "y_pred")
    columns = {name: before[name] for name in FEATURES}
    bins: dict[str, Bins] = {
        name: CategoricalBins.from_sample(column) if pa.types.is_string(column.type) or
        pa.types.is_large_string(column.type) else NumericBins.from_sample(column)
        for name, column in columns.items()
    }  # fmt: skip
    scale = float(np.quantile(np.abs(shown - truth), 0.95))
    windows = np.zeros(len(shown), dtype=np.int64)

    def expect(estimator: Any, part: slice) -> Expected:
        rows = after.slice(part.start, part.stop - part.start)
        found: Expected = estimator.expect({**{n: rows[n] for n in FEATURES}, "prediction": later[part]})
        return found

    fit = lambda: fit_regression(columns, bins, shown, truth, scale, windows, (0,))  # noqa: E731
    return _timed(fit, expect, len(later), size, min(times, 2))


RUNS: Mapping[str, Callable[[Path, int, int], Ours]] = {
    "car_loan": run_car_loan,
    "multiclass": run_multiclass,
    "car_price": run_car_price,
}


def _tables(directory: Path, name: str) -> list[pa.Table]:
    return [pq.read_table(directory / f"{name}_{part}.parquet").combine_chunks() for part in ("reference", "analysis")]


def _numbers(table: pa.Table, name: str) -> FloatArray:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _classes(table: pa.Table, name: str) -> FloatArray:
    return np.array([CLASSES.index(value) for value in table[name].to_pylist()], dtype=np.float64)


def _realised(name: str, metric: str, directory: Path, size: int) -> list[float]:
    """What labels show of each chunk; an area under the curve is left to the estimates."""
    _, table = _tables(directory, name)
    if name == "car_price":
        error = np.abs(_numbers(table, "y_pred") - _numbers(table, "y_true"))
        rows = error if metric == "mae" else error**2
    elif metric == "accuracy":
        truth = "repaid" if name == "car_loan" else "y_true"
        pairs = zip(table["y_pred"].to_pylist(), table[truth].to_pylist(), strict=True)
        rows = np.array([guess == label for guess, label in pairs], dtype=np.float64)
    else:
        return []
    means = [float(rows[at : at + size].mean()) for at in range(0, len(rows), size)]
    return [mean**0.5 for mean in means] if metric == "rmse" else means


def _compare(name: str, ours: Ours, theirs: Mapping[str, Any], directory: Path) -> list[dict[str, str]]:
    lines = []
    for metric, values in theirs["values"].items():
        mine = ours.values(NAMES.get(metric, metric))
        seen = _realised(name, metric, directory, theirs["chunk_rows"])
        bands = [chunk.metrics()[NAMES.get(metric, metric)] for chunk in ours.chunks]
        inside = [band.lower <= value <= band.upper for band, value in zip(bands, seen, strict=False)]
        sd = statistics.mean((band.upper - band.lower) / 3.92 for band in bands)
        lines.append(
            {
                "data": name,
                "metric": metric,
                "ours": f"{statistics.mean(mine):.6g}",
                "theirs": f"{statistics.mean(values):.6g}",
                "largest difference": f"{_largest(mine, values):.3g}",
                "labels show": f"{statistics.mean(seen):.6g}" if seen else "-",
                "we are off by": f"{_off(mine, seen):.3g}" if seen else "-",
                "they are off by": f"{_off(values, seen):.3g}" if seen else "-",
                "in our 95 % band": f"{sum(inside)}/{len(seen)}" if seen else "-",
                "our standard error": f"{sd:.3g}",
                "theirs ": f"{statistics.mean(theirs['errors'][metric]):.3g}",
            }
        )
    return lines


def _largest(ours: list[float], theirs: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True))


def _off(values: list[float], seen: list[float]) -> float:
    return statistics.mean(abs(value - true) for value, true in zip(values, seen, strict=True))


def _agreement(ours: Mapping[str, Ours], alike: Ours, theirs: Mapping[str, Any]) -> Figure:
    """Largest difference of any chunk, where the same classes are calibrated; beside it, with all of them."""
    found = {
        f"{name} {metric}": _largest(mine.values(NAMES.get(metric, metric)), values)
        for name, mine in (("car_loan", ours["car_loan"]), ("multiclass", alike))
        for metric, values in theirs[name]["values"].items()
    }
    several = theirs["multiclass"]
    own = _largest(ours["multiclass"].values("accuracy"), several["values"]["accuracy"])
    left = ", ".join(several["uncalibrated"]) or "none"
    detail = "largest difference of a chunk: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    detail += f"; they leave classes as they are: {left}; with all classes calibrated, as we do it: {own:.1e}"
    return Figure("cbpe_vs_nannyml", max(found.values()), at_most=ROUNDING, detail=detail)


def _speedup(ours: Mapping[str, Ours], theirs: Mapping[str, Any]) -> Figure:
    """The slower of our two comparisons: calibration takes part in the one, not in the other."""
    ratios = {}
    for name in ("car_loan", "multiclass"):
        fit, estimate = (statistics.median(theirs[name][key]) for key in ("fit_s", "estimate_s"))
        our_fit, our_estimate = statistics.median(ours[name].fit_s), statistics.median(ours[name].estimate_s)
        ratios[f"{name} estimate"] = estimate / our_estimate
        ratios[f"{name} fit"] = fit / our_fit
    detail = ", ".join(f"{name} {ratio:.0f}x" for name, ratio in ratios.items())
    return Figure("cbpe_speedup", min(ratios.values()), at_least=SPEEDUP, detail=detail)


def _direct(ours: Mapping[str, Ours], theirs: Mapping[str, Any], directory: Path) -> Figure:
    """Largest difference of the mean absolute error's estimates, as a share of what labels show."""
    mine, values, size = ours["car_price"].values("mae"), theirs["car_price"]["values"]["mae"], 0
    size = theirs["car_price"]["chunk_rows"]
    seen = _realised("car_price", "mae", directory, size)
    shares = [abs(one - other) / true for one, other, true in zip(mine, values, seen, strict=True)]
    fit, estimate = (statistics.median(theirs["car_price"][key]) for key in ("fit_s", "estimate_s"))
    faster = (
        f"fit {fit / statistics.median(ours['car_price'].fit_s):.0f}x, "
        f"estimate {estimate / statistics.median(ours['car_price'].estimate_s):.0f}x faster"
    )
    off = f"off from the labels by {_off(mine, seen):.1f} on average, theirs by {_off(values, seen):.1f}"
    detail = f"share of the realised mean absolute error; another model of the error; {off}; {faster}"
    return Figure("dle_vs_nannyml", max(shares), detail=detail)
