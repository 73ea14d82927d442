"""Vectors as norms and directions: the same in every process, null where they cannot be read."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.statistics.embeddings import NUM_DIRECTIONS, EmbeddingProjection


def vectors(matrix: np.ndarray, kind: str) -> pa.Array:
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(matrix.ravel(), matrix.shape[1])
    return pa.array(matrix.tolist(), pa.list_(pa.float32()))


@pytest.mark.parametrize("kind", ["fixed", "list"])
def test_apply_gives_norms_and_products_with_unit_directions(kind: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32).astype(np.float64)
    projection = EmbeddingProjection.from_sample("v", vectors(matrix, kind))
    found = projection.apply(pa.chunked_array([vectors(matrix[:20], kind), vectors(matrix[20:], kind)]))
    assert len(found) == NUM_DIRECTIONS + 1 == len(projection.names)
    assert np.allclose(found["v.norm"], np.linalg.norm(matrix, axis=1), rtol=2.0**-12)
    plain = projection.apply(matrix)
    assert all(np.allclose(found[name], plain[name]) for name in projection.names)
    assert np.abs(found["v.direction_00"]).max() <= found["v.norm"].max()


def test_null_odd_and_broken_vectors_become_null() -> None:
    projection = EmbeddingProjection("v", 2)
    values = pa.array([[1.0, 2.0], None, [1.0], [1.0, None], [], [np.inf, 1.0]])
    norms = projection.apply(values)["v.norm"]
    assert np.isfinite(norms).tolist() == [True, False, False, False, False, False]
    assert np.isnan(projection.apply(pa.array(["a", "b"]))["v.norm"]).all()
    assert np.isnan(projection.apply(np.ones((3, 5)))["v.norm"]).all()
    assert EmbeddingProjection.from_sample("v", pa.array([None], pa.list_(pa.float64()))).dimension == 1


def test_directions_are_frozen_by_the_seed() -> None:
    one = EmbeddingProjection("v", 3, seed=5)
    again = EmbeddingProjection.from_json(one.to_json())
    point = np.array([[1.0, 0.0, 0.0]])
    assert one == again == pickle.loads(pickle.dumps(one))
    assert again.apply(point)["v.direction_00"][0] == pytest.approx(0.1770185, abs=1e-6)
    assert EmbeddingProjection("v", 3, seed=6).apply(point)["v.direction_00"][0] != pytest.approx(0.1770185, abs=1e-6)


def test_rounding_of_normalised_vectors_and_of_matrix_products_does_not_show() -> None:
    matrix = np.random.default_rng(0).normal(size=(500, 64))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    projection = EmbeddingProjection("v", 64)
    whole = projection.columns_of(matrix.astype(np.float32).astype(np.float64))
    assert set(whole) == {"v", *projection.directions}
    assert (whole["v"] == 1.0).all()
    noisy = projection.columns_of(matrix * (1.0 + 1e-12))
    exact = projection.columns_of(matrix)
    differ = [np.mean(noisy[name] != exact[name]) for name in projection.directions]
    assert max(differ) < 0.01
