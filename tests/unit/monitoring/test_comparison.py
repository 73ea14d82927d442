"""A report of two tables names what moved, is silent about chance, and says where it cannot see."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

import ray_mlops
from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.comparison import compare

N = 8000


def rows(seed: int, n: int = N) -> pa.Table:
    generator = np.random.default_rng(seed)
    start = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
    return pa.table(
        {
            "x": pa.array(generator.normal(10, 2, n), mask=generator.random(n) < 0.02),
            "count": generator.poisson(4, n),
            "city": generator.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2]),
            "member": generator.random(n) < 0.3,
            "time": pa.array(start + generator.integers(0, 10**12, n)).cast(pa.timestamp("us", "UTC")),
            "vector": pa.array(generator.normal(size=(n, 6)).tolist(), pa.list_(pa.float64(), 6)),
        }
    )


def changed(table: pa.Table, **columns: object) -> pa.Table:
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def test_equal_distributions_show_no_drift_in_any_kind() -> None:
    report = compare(rows(0), rows(1))
    assert {column.verdict for column in report.columns} == {"no drift"}
    assert len(report.columns) == 5 + 17
    assert {column.kind for column in report.columns} == {"numeric", "categorical", "boolean", "datetime", "embedding"}
    x = report["x"]
    assert [found.name for found in x.magnitudes] == [
        *("total_variation", "jensen_shannon", "hellinger", "psi", "kolmogorov_smirnov", "wasserstein")
    ]
    assert all(found.expected > 0 and found.is_noise for found in x.magnitudes)
    assert x.current.mean == pytest.approx(10, abs=0.1)


def test_false_alarms_stay_below_alpha() -> None:
    config = MonitoringConfig(tolerance=0.0)
    seen = [compare(rows(2 * k, 600), rows(2 * k + 1, 400), config).drifted for k in range(60)]
    assert sum(map(bool, seen)) <= 3  # 1 % of 60, with room for luck


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("x", np.random.default_rng(5).normal(11, 2, N), "mean from"),
        ("x", np.where(np.arange(N) % 5, np.random.default_rng(6).normal(10, 2, N), np.nan), "nulls from"),
        ("x", np.random.default_rng(5).normal(10, 2, N) * 1.6, "outside"),
        ("city", np.random.default_rng(5).choice(["a", "b", "c"], N, p=[0.4, 0.4, 0.2]), "points"),
        ("city", np.random.default_rng(5).choice(["a", "b", "new"], N), "did not know"),
        ("member", np.random.default_rng(5).random(N) < 0.5, "points"),
    ],
)  # fmt: skip
def test_change_is_found_named_and_explained(name: str, values: np.ndarray, said: str) -> None:
    report = compare(rows(0), changed(rows(1), **{name: values}))
    assert report.drifted == (name,)
    assert said in report[name].reason


def test_embedding_that_turns_is_found_in_its_directions() -> None:
    turned = np.random.default_rng(1).normal(size=(N, 6)) + np.array([0.5, 0, 0, 0, 0, 0])
    report = compare(rows(0), changed(rows(1), vector=turned.tolist()))
    assert len(report.drifted) >= 4
    assert all(name.startswith("vector.") for name in report.drifted)


def test_broken_columns_are_faults() -> None:
    current = changed(
        rows(1), x=pa.nulls(N, pa.float64()), count=np.full(N, 4), city=np.arange(N), member=pa.nulls(N)
    ).drop_columns(["time"])
    report = compare(rows(0), current)
    assert set(report.faults) == {"x", "count", "city", "member", "time"}
    assert report["x"].reason == report["member"].reason == "every value is null"
    assert "stuck" in report["count"].reason
    assert "type was" in report["city"].reason
    assert "gone" in report["time"].reason


def test_what_cannot_be_said_is_undecided_and_never_no_drift() -> None:
    few = compare(rows(0, 10), rows(1))
    assert {column.verdict for column in few.columns} <= {"undecided", "drift"}
    assert "too few" in few["x"].reason
    empty = compare(rows(0), rows(1).slice(0, 0))
    assert {column.verdict for column in empty.columns} == {"undecided"}
    blank = compare(changed(rows(0), x=pa.nulls(N, pa.float64())), rows(1), columns=["x"])
    assert blank["x"].verdict == "undecided"
    fresh = compare(rows(0).drop_columns(["x"]), rows(1), columns=["x"])
    assert fresh["x"].verdict == "undecided"
    strange = pa.table({"s": pa.array([{"a": 1}] * 5)})
    assert compare(strange, strange)["s"].verdict == "undecided"


def test_constant_reference_sees_any_other_value() -> None:
    reference = pa.table({"x": np.full(N, 7.0), "w": ["a"] * N})
    assert compare(reference, reference).named("no drift") == ("x", "w")
    report = compare(reference, pa.table({"x": np.where(np.arange(N) % 5, 7.0, 8.0), "w": ["a", "b"] * (N // 2)}))
    assert report.drifted == ("x", "w")


def test_infinite_numbers_and_hundred_thousand_categories_are_reported() -> None:
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=N)
    numbers[::4] = np.inf
    broken = compare(pa.table({"x": generator.normal(size=N)}), pa.table({"x": numbers}))
    assert broken.drifted == ("x",)
    assert broken["x"].current.null_ratio == 0.25
    ids = [pa.table({"id": [f"{start + k}" for k in range(100_000)]}) for start in (0, 100_000)]
    report = compare(*ids)
    assert report["id"].unseen_ratio == 1.0
    assert report["id"].verdict != "no drift"


def test_small_but_certain_difference_is_tolerated() -> None:
    before, after = (pa.table({"w": ["a"] * a + ["b"] * (100_000 - a)}) for a in (50_000, 52_000))
    assert compare(before, after)["w"].verdict == "tolerated"
    assert compare(before, after, MonitoringConfig(tolerance=0.01))["w"].verdict == "drift"


def test_report_is_json_text_and_public() -> None:
    report = ray_mlops.compare(rows(0), changed(rows(1), x=np.zeros(N)))
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["schema_version"] == 1
    assert content["faults"] == ["x"]
    text = report.text().splitlines()
    assert text[1].startswith("x ")
    assert "1 fault, 21 no drift" in text[-1]
    with pytest.raises(KeyError):
        report["nothing"]
