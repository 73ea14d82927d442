from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import EvaluationConfig
from ray_mlops.errors import EvaluationError
from ray_mlops.evaluation.metrics import compute_metrics
from ray_mlops.evaluation.rows import score_rows
from ray_mlops.evaluation.slices import report_slices, slice_column, slice_table


def test_numbers_are_cut_at_quartiles_with_missing_apart() -> None:
    values = [*range(1, 101), None, float("nan"), float("inf")]
    cut = slice_column("x", pa.array(values, pa.float64()), 50)
    assert cut.labels == ("up to 25", "25 to 50", "50 to 75", "above 75", "(missing)")
    assert np.bincount(cut.codes).tolist() == [25, 25, 25, 25, 3]
    assert cut.labels[cut.codes[24]] == "up to 25"  # the edge itself belongs below


def test_numbers_with_few_values_are_cut_by_value() -> None:
    cut = slice_column("hour", pa.array([3, 1, 3, 2]), 50)
    assert cut.labels == ("1", "2", "3")
    assert cut.codes.tolist() == [2, 0, 2, 1]


def test_skewed_numbers_have_fewer_slices_and_no_empty_one() -> None:
    for values in ([0] * 90 + list(range(1, 11)), list(range(10)) + [50] * 90):
        cut = slice_column("x", pa.array(values), 50)
        assert (np.bincount(cut.codes, minlength=len(cut.labels)) > 0).all()
        assert len(cut.labels) >= 2


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (pa.array(["b", None, "a", "b"]), ("a", "b", "(missing)")),
        (pa.array(["b", "a"]).dictionary_encode(), ("a", "b")),
        (pa.array([True, False, None]), ("False", "True", "(missing)")),
        (pa.array([None, None], pa.string()), ("(missing)",)),
        (pa.array([None, None], pa.float64()), ("(missing)",)),
        (pa.array([], pa.string()), ()),
        (pa.array([], pa.float64()), ()),
        (pa.array([[1], [2]]), ("[1]", "[2]")),
    ],
)
def test_every_type_is_cut(values: pa.Array, labels: tuple[str, ...]) -> None:
    cut = slice_column("c", pa.chunked_array([values]), 50)
    assert cut.labels == labels
    assert len(cut.codes) == len(values)


def test_times_are_cut_at_dates() -> None:
    days = [datetime(2013, 1, day, tzinfo=UTC) for day in range(1, 21)]
    cut = slice_column("when", pa.array(days, pa.timestamp("us", tz="UTC")), 50)
    assert cut.labels[0] == "up to 2013-01-05"


def test_only_the_largest_slices_are_kept() -> None:
    cut = slice_column("c", pa.array(["a"] * 3 + ["b"] + ["c"] * 2), 2)
    assert cut.labels == ("a", "c")
    assert cut.codes.tolist() == [0, 0, 0, -1, 1, 1]
    assert cut.left_out == 1


def test_missing_column_names_the_setting() -> None:
    with pytest.raises(EvaluationError, match=r"evaluation\.slices: no column 'x'"):
        slice_table(pa.table({"a": [1]}), ["x"], 5, "evaluation.slices")


def test_report_of_a_slice_equals_metrics_of_its_rows() -> None:
    generator = np.random.default_rng(0)
    values = generator.random(300)
    target = (generator.random(300) < values).astype(float)
    groups = generator.choice(["a", "b"], 300, p=[0.9, 0.1])
    cuts = slice_table(pa.table({"g": groups}), ["g"], 5, "")
    rows = score_rows("binary", values, target)
    loss = (values - target) ** 2
    big, small = report_slices(cuts, rows, loss, EvaluationConfig(min_support=100))
    mask = groups == "a"
    assert big.metrics == compute_metrics("binary", values[mask], target[mask])
    assert big.loss.value == pytest.approx(loss[mask].mean())
    assert (big.is_judged, small.is_judged) == (True, False)
    assert big.rows + small.rows == 300
