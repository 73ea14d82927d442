"""Remainders: what they find, what they ignore, and that they do not depend on how rows are cut."""

import json

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.statistics.projections import NO_PROJECTIONS, Projections, fit_projections

SPEED = {"prop": 300.0, "jet": 500.0}


def columns(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.choice(list(SPEED), n)
    hours = rng.uniform(1, 6, n)
    return {
        "km": hours * np.array([SPEED[k] for k in kind]) * rng.normal(1, 0.02, n),
        "hours": hours,
        "seats": np.where(kind == "jet", 180.0, 60.0) + rng.normal(0, 8, n),
        "rain": rng.exponential(size=n),
        "kind": pa.array(kind),
    }


def fit(table, limit=4):
    numeric = {name: values for name, values in table.items() if name != "kind"}
    return fit_projections(numeric, {"kind": table["kind"]}, limit)


def test_columns_that_follow_from_others_are_found_and_others_are_not():
    members = fit(columns()).members
    assert {frozenset((m.target, *m.explained_by[:1])) for m in members} == {
        frozenset({"km", "hours"}),
        frozenset({"seats", "kind"}),
    }
    assert not any("rain" in member.explained_by or member.target == "rain" for member in members)
    assert len(fit(columns(), limit=1).members) == 1
    assert fit(columns(), limit=0) == NO_PROJECTIONS


@pytest.mark.parametrize("column", ["km", "hours", "kind"])
def test_shuffle_that_no_single_column_shows_widens_a_remainder(column):
    table = columns()
    projections = fit(table)
    order = np.random.default_rng(1).permutation(4000)
    mixed = {**table, column: table[column].take(order)}
    before, after = projections.of(table), projections.of(mixed)
    widened = {name: after[name].std() / before[name].std() for name in before}
    guilty = max(widened, key=widened.__getitem__)
    assert widened[guilty] > 2.5
    members = {member.name: member for member in projections.members}
    assert column in {members[guilty].target, *members[guilty].explained_by}


def test_values_do_not_depend_on_the_batch_to_the_bit():
    table = columns()
    projections = fit(table)
    whole = projections.of(table)
    for size in (1, 7, 1000):
        parts = [projections.of({k: v[i : i + size] for k, v in table.items()}) for i in range(0, 60, size)]
        for name, values in whole.items():
            assert np.array_equal(np.concatenate([part[name] for part in parts])[:60], values[:60])


def test_nulls_infinities_and_unknown_categories_count_as_usual():
    projections = fit(columns())
    odd = {
        "km": [None, 1200.0, float("inf")],
        "hours": [3.0, None, 3.0],
        "seats": [None] * 3,
        "rain": [0.0] * 3,
        "kind": pa.array([None, "balloon", "jet"]),
    }
    for values in projections.of({k: pa.array(v, pa.float64()) if k != "kind" else v for k, v in odd.items()}).values():
        assert np.isfinite(values).all()


def test_projection_of_a_column_that_is_not_there_is_left_out():
    table = columns()
    projections = fit(table)
    del table["hours"]
    assert len(projections.of(table)) == len(projections.members) - 1


@pytest.mark.parametrize(
    "numeric",
    [{}, {"x": []}, {"x": [1.0] * 9, "y": [2.0] * 9}, {"x": [None] * 9, "y": [1e308, -1e308] * 4 + [0.0]}],
)
def test_nothing_to_fit_is_no_error(numeric):
    arrays = {name: pa.array(values, pa.float64()) for name, values in numeric.items()}
    assert fit_projections(arrays, {}, 4).members == ()


def test_survives_json():
    projections = fit(columns())
    again = Projections.from_json(json.loads(json.dumps(projections.to_json())))
    assert again == projections
