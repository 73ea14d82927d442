"""Losses by slice: a routing key is a unit in each slice that it comes to."""

import numpy as np
import pyarrow as pa

from ray_mlops.serving.rollout.shadow import BundleFacts, gather_losses
from ray_mlops.serving.rollout.slice_losses import losses_by_slice
from ray_mlops.serving.slicing import SliceColumn

FACTS = BundleFacts("regression", (), 1.0)
CARRIER = SliceColumn("carrier", values=("AA", "DL"))


def labelled(*rows: tuple[str | None, int | None, int, float]) -> pa.Table:
    """Rows of carrier, routing key, window, loss; even keys are on the candidate."""
    columns = list(zip(*rows, strict=True))
    n = len(rows)
    arms = ["candidate" if (key or 0) % 2 == 0 else "champion" for key in columns[1]]
    return pa.table(
        {
            "prediction_id": [f"p{i}" for i in range(n)],
            "request_id": [f"r{i}" for i in range(n)],
            "window": pa.array(columns[2], pa.int64()),
            "event_time": pa.array(np.arange(n) + 10, pa.timestamp("us", tz="UTC")),
            "arm": arms,
            "version": ["2" if arm == "candidate" else "1" for arm in arms],
            "route_version": pa.array([5] * n, pa.int64()),
            "routing_key_hash": pa.array(columns[1], pa.uint64()),
            "pinned": [False] * n,
            "weight": [0.25 if arm == "candidate" else 0.75 for arm in arms],
            "label": np.array(columns[3]),
            "prediction": np.zeros(n),
            "features.carrier": pa.array(columns[0], pa.string()),
        }
    )


def gather(rows: pa.Table) -> object:
    return gather_losses(rows, {"p1": np.float64(0.5)}, FACTS, champion="1", after_us=0, weights={5: 0.25})  # type: ignore[arg-type]


def test_key_is_one_unit_in_each_slice() -> None:
    rows = labelled(("AA", 2, 1, 0.2), ("DL", 3, 1, 0.9), ("DL", 2, 1, 0.8), ("AA", 2, 1, 0.4), ("AA", 2, 2, 1.0))
    aa, dl, other, missing = losses_by_slice(rows, [CARRIER], gather)  # type: ignore[arg-type]
    assert aa.losses.tolist() == np.mean([[0.2, 0.4]], axis=1).tolist()
    assert (dl.losses.tolist(), dl.is_candidate.tolist(), dl.weights.tolist()) == (
        [0.9, 0.8],
        [False, True],
        [0.25] * 2,
    )
    assert dl.paired.tolist() == [0.4 - 0.9]
    assert len(other.losses) == len(missing.losses) == 0


def test_rows_without_the_column_say_so() -> None:
    rows = labelled(("AA", 2, 1, 0.2)).drop_columns(["features.carrier"])
    found = losses_by_slice(rows, [CARRIER, SliceColumn("gone", problem="no input")], gather)  # type: ignore[arg-type]
    assert [evidence.problem for evidence in found] == ["labelled rows do not tell carrier"] * 4
