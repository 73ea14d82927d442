"""Labels from files: what is sent, what is passed over, and what an error names."""

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.errors import RayMLOpsError, RequestError, SourceError
from ray_mlops.orchestration.labels_import import import_labels


class FakeClient:
    """Takes labels as the service does: a request whole or not at all. It refuses the label ``x``."""

    def __init__(self) -> None:
        self.labels: list[Mapping[str, Any]] = []

    def feedback(self, labels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        assert labels
        for index, label in enumerate(labels):
            if label["label"] == "x":
                raise RequestError("expected a number", f"labels[{index}].label", "send numbers")
        self.labels += labels
        return {"accepted": len(labels), "duplicate": 0, "conflicting": 0, "model": "m"}


def send(directory: Path, columns: dict[str, Any] | str, **more: Any) -> tuple[dict[str, int], list[Mapping[str, Any]]]:
    if isinstance(columns, str):
        path = directory / "labels.csv"
        path.write_text(columns)
    else:
        path = directory / "labels.parquet"
        pq.write_table(pa.table(columns), path)
    client = FakeClient()
    return import_labels(client, str(path), **more), client.labels  # type: ignore[arg-type]


def test_ids_in_csv_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    _, labels = send(tmp_path, "id,label\n007,1\n7,2\n1e5,3\n")
    assert [label["id"] for label in labels] == ["007", "7", "1e5"]


def test_rows_without_a_label_are_passed_over_and_counted(tmp_path: Path) -> None:
    counts, labels = send(tmp_path, {"id": ["a", "b", None, "c"], "label": [1.0, float("nan"), None, 3.0]})
    assert counts == {"accepted": 2, "duplicate": 0, "conflicting": 0, "missing": 2}
    assert [label["id"] for label in labels] == ["a", "c"]
    counts, labels = send(tmp_path, {"id": ["a"], "label": pa.array([None], pa.float64())})
    assert (counts["missing"], labels) == (1, [])


def test_numbers_decimals_and_times_are_sent_as_json_has_them(tmp_path: Path) -> None:
    moment = dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC)
    columns = {"n": [1.0, 2.0], "v": [Decimal("1.5"), Decimal("2.5")], "t": [moment, None]}
    _, labels = send(tmp_path, columns, id_column="n", label_column="v", time_column="t")
    assert labels == [
        {"id": "1", "label": 1.5, "time": "2024-01-02T03:00:00+00:00"},
        {"id": "2", "label": 2.5, "time": None},
    ]


@pytest.mark.parametrize(
    ("columns", "error", "text"),
    [
        ({"id": ["a"], "y": [1]}, SourceError, "no column 'label'; it has id, y|labels.parquet: no column 'label'"),
        ({"id": ["a", None], "label": [1, 2]}, SourceError, "row 2: a label without an id, got None"),
        ({"id": ["a"], "label": [b"x"]}, SourceError, "row 1, column 'label': a label must be a string.*got bytes"),
        ({"id": ["a", "b"], "label": [None, "x"]}, RequestError, "row 2: label: expected a number"),
    ],
)
def test_wrong_file_is_an_error_that_names_the_place(
    tmp_path: Path, columns: dict[str, Any], error: type[RayMLOpsError], text: str
) -> None:
    with pytest.raises(error, match=text):
        send(tmp_path, columns)


def test_labels_go_in_batches_and_an_error_names_the_row(tmp_path: Path) -> None:
    numbers = [str(number) for number in range(4500)]
    counts, _ = send(tmp_path, {"id": numbers, "label": list(range(4500))})
    assert counts["accepted"] == 4500
    with pytest.raises(RequestError, match=r"labels\.csv, row 2501: label: expected a number"):
        send(tmp_path, "id,label\n" + "".join(f"{n},{n if n < 2500 else 'x'}\n" for n in range(4500)))
