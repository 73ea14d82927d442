"""The label that stands beside an explained prediction."""

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa

from ray_mlops.ledger import Ledger
from ray_mlops.orchestration.explain import LedgerExplainer, explain_lines
from ray_mlops.runtime.files import Files

MOMENT = dt.datetime(1970, 1, 1, 12, tzinfo=dt.UTC)


def test_explained_label_is_the_one_in_force(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    row = {"prediction_id": "a", "event_time": MOMENT, "arrival_time": MOMENT, "arm": "champion", "version": "1"}
    row |= {"route_version": 1, "outcome": "ok", "weight": 1.0, "prediction": 0.25}
    files.write_table("predictions/m/day=1970-01-01/r-00000001.parquet", pa.Table.from_pylist([row]))
    labels = [
        {"id": "b", "label": 7, "time": None, "arrival": 1},
        {"id": "a", "label": 1, "time": None, "arrival": 2},
        {"id": "a", "label": 0, "time": None, "arrival": 3, "is_correction": True},
    ]
    explainer = LedgerExplainer(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"), files)
    for count, label, line in ((1, None, None), (2, "1", "  label 1"), (3, "0", "  label 0 (a correction)")):
        text = "".join(f"{json.dumps(label)}\n" for label in labels[:count])
        files.write("labels/m/day=1970-01-01/r-1.jsonl", text.encode())
        found = explainer.explain("m", "a")
        assert (found["label"] or {"label": None})["label"] == label
        shown = [line for line in explain_lines(found) if line.startswith("  label")]
        assert shown == ([] if line is None else [line])
