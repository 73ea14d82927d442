"""Batch prediction of rows with vectors: those that are none are told, row by row."""

import numpy as np
import pyarrow as pa

from ray_mlops.config import FeatureConfig
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.orchestration.batch_rows import find_bad_rows


def test_wrong_vectors_are_found_row_by_row() -> None:
    generator = np.random.default_rng(0)
    fitted = pa.table({"x": generator.normal(size=50), "v": generator.normal(size=(50, 3)).tolist()})
    features = FeaturePipeline.fit_table(fitted, [FeatureConfig(name="x"), FeatureConfig(name="v")])
    lists = [[1.0, 2.0, 3.0], [1.0], None, [1.0, None, 2.0], [1.0, float("inf"), 2.0]]
    found = find_bad_rows(pa.table({"x": [0.0] * 5, "v": lists}), features)
    assert [(bad.row, bad.column) for bad in found] == [(1, "v"), (3, "v"), (4, "v")]
    assert "expected a list of 3 finite numbers, got 1 of them" in found[0].problem
    assert "got None at position 1" in found[1].problem
    text = find_bad_rows(pa.table({"x": [0.0], "v": ["[1, 2, 3]"]}), features)
    assert (text[0].row, text[0].column) == (0, "v")
