"""Labels from files: what is sent, what is passed over, and what an error names."""

import csv
import datetime as dt
import gzip
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mlops.errors import OverloadError, PayloadTooLargeError, RayMLOpsError, RequestError, SourceError
from ray_mlops.orchestration.labels_import import import_labels

Before = Callable[[int, Sequence[Mapping[str, Any]]], None]
NOTHING = {"accepted": 0, "duplicate": 0, "conflicting": 0, "corrected": 0, "missing": 0, "rejected": 0}


class FakeClient:
    """Takes labels as the service does: a request whole or not at all. It refuses labels that begin with ``x``.

    Args:
        before: Is called with the number of a request and its labels; may raise, or hold it up.
    """

    def __init__(
        self, before: Callable[[int, Sequence[Mapping[str, Any]]], None] = lambda number, labels: None
    ) -> None:
        self.labels: list[Mapping[str, Any]] = []
        self.in_force: dict[str, Any] = {}
        self.requests = 0
        self._before, self._lock = before, threading.Lock()

    def feedback(self, labels: Sequence[Mapping[str, Any]], *, patience_s: float = 0.0) -> dict[str, Any]:
        assert labels
        assert patience_s > 0.0
        with self._lock:
            self.requests += 1
            number = self.requests
        self._before(number, labels)
        for index, label in enumerate(labels):
            if str(label["label"]).startswith("x"):
                raise RequestError("expected a number", f"labels[{index}].label", "send numbers")
        with self._lock:
            return {"received": len(labels), **self._sort(labels), "model": "m"}

    def _sort(self, labels: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        counts = {"accepted": 0, "duplicate": 0, "conflicting": 0, "corrected": 0}
        self.labels += labels
        for label in labels:
            name, value = label["id"], label["label"]
            present = self.in_force.get(name)
            if present is None or (label.get("correction") and present != value):
                counts["accepted" if present is None else "corrected"] += 1
                self.in_force[name] = value
            else:
                counts["duplicate" if present == value else "conflicting"] += 1
        return counts


def write(directory: Path, columns: dict[str, Any] | str | bytes) -> Path:
    if isinstance(columns, str | bytes):
        path = directory / "labels.csv"
        path.write_bytes(columns.encode() if isinstance(columns, str) else columns)
    else:
        path = directory / "labels.parquet"
        pq.write_table(pa.table(columns), path)
    return path


def send(
    directory: Path, columns: dict[str, Any] | str | bytes, **more: Any
) -> tuple[dict[str, int], list[Mapping[str, Any]]]:
    client = FakeClient()
    return import_labels(client, write(directory, columns), **more), client.labels  # type: ignore[arg-type]


def rejected(path: Path) -> list[tuple[str, str, str]]:
    with path.open(newline="") as stream:
        return [(row["row"], row["id"], row["reason"]) for row in csv.DictReader(stream)]


# -- what is sent ------------------------------------------------------------------------------------------


def test_ids_in_csv_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    _, labels = send(tmp_path, "id,label\n007,1\n7,2\n1e5,3\n")
    assert [label["id"] for label in labels] == ["007", "7", "1e5"]


def test_cell_of_csv_is_a_number_or_text_by_itself(tmp_path: Path) -> None:
    cells = ["1", "-2.5", "1.0", "1e2", "007", "1_0", "true", "False", "UA", "inf", "12345678901234567890"]
    _, labels = send(tmp_path, "id,label\n" + "".join(f"i{n},{cell}\n" for n, cell in enumerate(cells)))
    found = [label["label"] for label in labels]
    assert found == [1, -2.5, 1.0, 100.0, "007", "1_0", True, False, "UA", "inf", 12345678901234567890.0]
    assert [type(value) for value in found[:3]] == [int, float, float]


def test_quoted_cells_and_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbfid,note,label\r\na,"x, ""y""\nz",1\r\n\r\nb,,2\r\n'))
    client = FakeClient()
    assert import_labels(client, str(path))["accepted"] == 2  # type: ignore[arg-type]
    assert client.in_force == {"a": 1, "b": 2}


def test_json_lines_keep_their_types_and_may_leave_out_what_is_null(tmp_path: Path) -> None:
    rows = [{"id": "a"}, {"id": 7, "label": "1", "at": "2024-01-02"}, {"id": "c", "label": True, "at": None}]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    client = FakeClient()
    assert import_labels(client, str(path), time_column="at")["missing"] == 1  # type: ignore[arg-type]
    assert client.labels == [
        {"id": "7", "label": "1", "time": "2024-01-02"},
        {"id": "c", "label": True, "time": None},
    ]


def test_rows_without_a_label_are_passed_over_and_counted(tmp_path: Path) -> None:
    counts, labels = send(tmp_path, {"id": ["a", "b", None, "c"], "label": [1.0, float("nan"), None, 3.0]})
    assert counts == {**NOTHING, "accepted": 2, "missing": 2}
    assert [label["id"] for label in labels] == ["a", "c"]
    counts, labels = send(tmp_path, {"id": ["a"], "label": pa.array([None], pa.float64())})
    assert (counts["missing"], labels) == (1, [])
    counts, labels = send(tmp_path, "id,label\na,NA\nb,\nc,5\n")
    assert (counts["missing"], len(labels)) == (2, 1)


def test_numbers_decimals_and_times_are_sent_as_json_has_them(tmp_path: Path) -> None:
    moment = dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC)
    columns = {"n": [1.0, 2.0], "v": [Decimal("1.5"), Decimal("2.5")], "t": [moment, None]}
    _, labels = send(tmp_path, columns, id_column="n", label_column="v", time_column="t")
    assert labels == [
        {"id": "1", "label": 1.5, "time": "2024-01-02T03:00:00+00:00"},
        {"id": "2", "label": 2.5, "time": None},
    ]
    nanoseconds = pa.array([1, 1_000_000_001], pa.timestamp("ns", tz="UTC"))
    _, labels = send(tmp_path, {"id": ["a", "b"], "label": [1, 2], "t": nanoseconds}, time_column="t")
    assert [label["time"] for label in labels] == ["1970-01-01T00:00:00+00:00", "1970-01-01T00:00:01+00:00"]


# -- corrections -------------------------------------------------------------------------------------------


def test_whole_file_may_be_corrections(tmp_path: Path) -> None:
    _, labels = send(tmp_path, "id,label\na,1\nb,2\n", correction=True)
    assert [label["correction"] for label in labels] == [True, True]


@pytest.mark.parametrize(
    "columns",
    [
        "id,label,fix\na,1,\na,2,true\na,3,false\na,4,1\n",
        {"id": ["a"] * 4, "label": [1, 2, 3, 4], "fix": [None, True, False, True]},
    ],
)
def test_column_says_which_rows_are_corrections(tmp_path: Path, columns: Any) -> None:
    counts, labels = send(tmp_path, columns, correction_column="fix")
    assert [label.get("correction", False) for label in labels] == [False, True, False, True]
    assert counts == {**NOTHING, "accepted": 1, "corrected": 2, "conflicting": 1}


def test_rows_of_one_id_reach_the_service_in_the_order_of_the_file(tmp_path: Path) -> None:
    """The first request is held up while the second comes through; the third has its id, and has to wait."""
    second, third, overtaken = threading.Event(), threading.Event(), []

    def before(number: int, labels: Sequence[Mapping[str, Any]]) -> None:
        value = labels[0]["label"]
        if value == 1:
            assert second.wait(timeout=10)
            overtaken.append(third.wait(timeout=0.2))
        else:
            (second if value == 2 else third).set()

    client = FakeClient(before)
    names = ["a"] * 2000 + ["b"] * 2000 + ["a"] * 2000
    path = write(tmp_path, {"id": names, "label": [1] * 2000 + [2] * 2000 + [3] * 2000})
    counts = import_labels(client, path, correction=True)  # type: ignore[arg-type]
    assert overtaken == [False]
    assert client.in_force == {"a": 3, "b": 2}
    assert counts == {**NOTHING, "accepted": 2, "corrected": 1, "duplicate": 5997}


# -- at scale ----------------------------------------------------------------------------------------------


def test_labels_go_in_batches_and_an_error_names_the_row(tmp_path: Path) -> None:
    numbers = [str(number) for number in range(4500)]
    counts, _ = send(tmp_path, {"id": numbers, "label": list(range(4500))})
    assert counts["accepted"] == 4500
    with pytest.raises(RequestError, match=r"labels\.csv, row 2501: label: expected a number"):
        send(tmp_path, "id,label\n" + "".join(f"{n},{n if n < 2500 else 'x'}\n" for n in range(4500)))


def test_requests_are_under_way_at_once_but_no_more_than_asked_for(tmp_path: Path) -> None:
    together = threading.Barrier(3)
    most, now, lock = 0, 0, threading.Lock()

    def before(number: int, labels: Sequence[Mapping[str, Any]]) -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        together.wait(timeout=10)  # breaks unless three come at once
        with lock:
            now -= 1

    path = write(tmp_path, {"id": [str(n) for n in range(12_000)], "label": [1] * 12_000})
    counts = import_labels(FakeClient(before), path, in_flight=3)  # type: ignore[arg-type]
    assert counts["accepted"] == 12_000
    assert most == 3


def test_progress_tells_rows_and_labels_a_second(tmp_path: Path) -> None:
    said: list[str] = []
    moments = iter([0.0, 2.0, 4.0])
    path = write(tmp_path, {"id": [str(n) for n in range(3000)], "label": [1] * 3000})
    import_labels(
        FakeClient(),  # type: ignore[arg-type]
        path,
        on_phase=lambda phase, detail: said.append(detail),
        clock=lambda: next(moments),
    )
    assert said == ["", "2,000 rows, 1,000 labels/s", "3,000 rows, 750 labels/s"]


def test_batch_that_is_too_large_for_the_service_is_halved(tmp_path: Path) -> None:
    def before(number: int, labels: Sequence[Mapping[str, Any]]) -> None:
        if len(labels) > 600:
            raise PayloadTooLargeError("too many", "labels")

    client = FakeClient(before)
    path = write(tmp_path, {"id": [str(n) for n in range(3000)], "label": [1] * 3000})
    assert import_labels(client, path)["accepted"] == 3000  # type: ignore[arg-type]
    assert sorted(int(label["id"]) for label in client.labels) == list(range(3000))


# -- going on ----------------------------------------------------------------------------------------------


def test_failure_names_the_row_to_go_on_from_and_that_row_completes_it(tmp_path: Path) -> None:
    """The third request fails for good while later ones come through; what they took is a duplicate afterwards."""

    def before(number: int, labels: Sequence[Mapping[str, Any]]) -> None:
        if any(label["id"] == "5000" for label in labels):
            raise OverloadError("is full", "POST /feedback", "try later")

    path = write(tmp_path, {"id": [str(n) for n in range(20_000)], "label": [1] * 20_000})
    client = FakeClient(before)
    with pytest.raises(OverloadError, match=r"is full; try later; the rows before 4001 are done: .* --from-row 4001"):
        import_labels(client, path)  # type: ignore[arg-type]
    client._before = lambda number, labels: None
    counts = import_labels(client, path, from_row=4001)  # type: ignore[arg-type]
    assert sum(counts.values()) == 16_000
    assert len(client.in_force) == 20_000
    assert counts["conflicting"] == 0


def test_row_that_stops_the_import_is_told_with_the_row_to_go_on_from(tmp_path: Path) -> None:
    names = [None if n == 4321 else str(n) for n in range(5000)]
    with pytest.raises(SourceError, match=r"row 4322: a label without an id.*--from-row 4001$"):
        send(tmp_path, {"id": names, "label": [1] * 5000})


def test_earlier_failure_of_a_request_is_told_before_a_later_row(tmp_path: Path) -> None:
    labels: list[Any] = ["1"] * 6000
    labels[2500] = "x"
    names = [None if n == 4100 else str(n) for n in range(6000)]
    with pytest.raises(RequestError, match=r"row 2501: label: expected a number.*--from-row 2001$"):
        send(tmp_path, {"id": names, "label": labels})


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("from_row", [1, 2, 3, 4, 5])
def test_rows_are_counted_over_all_files(tmp_path: Path, form: str, from_row: int) -> None:
    for number, names in enumerate((["a", "b"], [], ["c", "d", "e"])):
        columns = {"id": pa.array(names, pa.string()), "label": pa.array([1] * len(names), pa.int64())}
        if form == "csv":
            (tmp_path / f"{number}.csv").write_text("id,label\n" + "".join(f"{name},1\n" for name in names))
        else:
            pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    client = FakeClient()
    import_labels(client, f"{tmp_path}/*.{form}", from_row=from_row)  # type: ignore[arg-type]
    assert [label["id"] for label in client.labels] == list("abcde")[from_row - 1 :]


def test_row_beyond_the_last_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="only 2 rows, and none from row 3 on"):
        send(tmp_path, "id,label\na,1\nb,2\n", from_row=3)
    for name in ("from_row", "in_flight"):
        with pytest.raises(RequestError, match=f"{name}: must be at least 1"):
            send(tmp_path, "id,label\na,1\n", **{name: 0})


# -- rows that cannot be taken -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error", "text"),
    [
        ({"id": ["a"], "y": [1]}, SourceError, "labels.parquet: no column 'label'; it has id, y"),
        ("id,y\na,1\n", SourceError, "labels.csv: no column 'label'; it has id, y"),
        ({"id": ["a", None], "label": [1, 2]}, SourceError, "row 2: a label without an id, got None"),
        ("id,label\na,1\nNA,2\n", SourceError, "row 2: a label without an id, got None"),
        ("id,label\na/b,1\n", RequestError, "row 1: id: 'a/b' is no valid id"),
        ({"id": ["a"], "label": [b"x"]}, SourceError, "row 1: label: a label must be a string.*got bytes"),
        ({"id": ["a"], "label": [float("inf")]}, SourceError, "row 1: label: a label must be finite, got inf"),
        ({"id": ["a", "b"], "label": [None, "x"]}, RequestError, "row 2: label: expected a number"),
        ("id,label\na,1\nb\n", SourceError, "row 2: has 1 fields, and the header 2"),
        (b"id,label\na,\xe9\n", SourceError, r"row 1: label: the text '\\udce9' is not UTF-8; convert the file"),
        (b"id,l\xe9bel\na,1\n", SourceError, "the names of its columns are not UTF-8"),
        ("id,label\na,1\n".encode("utf-16"), SourceError, "not UTF-8|no column"),
        ("", SourceError, "labels.csv: is empty: it has not even a header"),
        ("id,label\n", SourceError, "labels.csv: there are no rows"),
        ({"id": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, SourceError, "there are no rows"),
        ('id,label\na,"1\n', SourceError, "labels.csv: cannot be read as csv: unexpected end of data"),
        ("id,label,label\na,1,2\n", SourceError, "several columns have the name 'label'"),
    ],
)
def test_wrong_file_is_an_error_that_names_the_place(
    tmp_path: Path, columns: Any, error: type[RayMLOpsError], text: str
) -> None:
    with pytest.raises(error, match=text):
        send(tmp_path, columns)


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("time_column", "yesterday", "row 1: time: expected an ISO 8601 time"),
        ("time_column", 5, "row 1: time: expected an ISO 8601 time"),
        ("correction_column", "yes", "row 1: correction: expected true or false, got 'yes'"),
        ("correction_column", 2, "row 1: correction: expected true or false, got 2"),
    ],
)
def test_wrong_time_or_mark_names_the_row(tmp_path: Path, column: str, value: Any, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        send(tmp_path, {"id": ["a"], "label": [1], "c": [value]}, **{column: "c"})


@pytest.mark.parametrize("damage", [b"", b"no parquet", None])
def test_damaged_file_amid_others_is_named_before_anything_is_sent(tmp_path: Path, damage: bytes | None) -> None:
    for name in "abc":
        pq.write_table(pa.table({"id": [name], "label": [1]}), tmp_path / f"{name}.parquet")
    path = tmp_path / "b.parquet"
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    client = FakeClient()
    with pytest.raises(SourceError, match=r"b\.parquet: cannot be read as parquet"):
        import_labels(client, f"{tmp_path}/*.parquet")  # type: ignore[arg-type]
    assert client.labels == []


def test_file_that_breaks_off_is_told_with_the_row_to_go_on_from(tmp_path: Path) -> None:
    whole = gzip.compress("".join(["id,label\n", *(f"{n * 7919 % 100_003},{n}\n" for n in range(50_000))]).encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    client = FakeClient()
    with pytest.raises(SourceError, match=r"a\.csv\.gz: cannot be read as csv.*go on with --from-row \d+001$"):
        import_labels(client, str(tmp_path / "a.csv.gz"))  # type: ignore[arg-type]
    assert len(client.labels) > 10_000


def test_rejects_are_written_with_row_and_reason_and_the_import_goes_on(tmp_path: Path) -> None:
    content = b"id,label\na,1\n,2\nb,x\nc\nd,\xff\ne/,3\nf,4\ng,x\nh,\n"
    counts, labels = send(tmp_path, content, rejects=tmp_path / "rejects.csv")
    assert [label["id"] for label in labels] == ["a", "f"]
    assert counts == {**NOTHING, "accepted": 2, "rejected": 6, "missing": 1}
    assert rejected(tmp_path / "rejects.csv") == [
        ("2", "", "a label without an id, got None"),
        ("3", "b", "label: expected a number"),
        ("4", "", "has 1 fields, and the header 2"),
        ("5", "d", r"label: the text '\udcff' is not UTF-8"),
        ("6", "e/", "id: 'e/' is no valid id"),
        ("8", "g", "label: expected a number"),
    ]


def test_rejects_name_the_row_within_its_file(tmp_path: Path) -> None:
    for name, cell in (("a", "1"), ("b", "x")):
        (tmp_path / f"{name}.csv").write_text(f"id,label\n{name}1,2\n{name}2,{cell}\n")
    import_labels(FakeClient(), f"{tmp_path}/*.csv", rejects=tmp_path / "r.txt")  # type: ignore[arg-type]
    with (tmp_path / "r.txt").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["row"], row["place"]) == ("4", f"{tmp_path}/b.csv, row 2 (row 4 of all)")


def test_value_that_was_refused_once_is_not_asked_about_again(tmp_path: Path) -> None:
    client = FakeClient()
    path = write(tmp_path, {"id": [str(n) for n in range(6000)], "label": ["x" if n % 3 else "1" for n in range(6000)]})
    counts = import_labels(client, path, rejects=tmp_path / "r.csv", in_flight=1)  # type: ignore[arg-type]
    assert counts == {**NOTHING, "accepted": 2000, "rejected": 4000}
    assert client.requests == 4
    assert [int(row) for row, _, _ in rejected(tmp_path / "r.csv")] == [n + 1 for n in range(6000) if n % 3]


def test_rejects_of_an_import_that_goes_on_are_added(tmp_path: Path) -> None:
    path, rejects = write(tmp_path, "id,label\na,x\nb,1\nc,x\n"), tmp_path / "r.csv"
    import_labels(FakeClient(), path, rejects=rejects)  # type: ignore[arg-type]
    import_labels(FakeClient(), path, rejects=rejects, from_row=2)  # type: ignore[arg-type]
    assert [row for row, _, _ in rejected(rejects)] == ["1", "3", "3"]
    import_labels(FakeClient(), path, rejects=rejects)  # type: ignore[arg-type]
    assert [row for row, _, _ in rejected(rejects)] == ["1", "3"]


def test_refusal_that_is_no_labels_fault_stops_the_import_despite_rejects(tmp_path: Path) -> None:
    def before(number: int, labels: Sequence[Mapping[str, Any]]) -> None:
        raise RequestError("no token", "authorization", "send one")

    with pytest.raises(RequestError, match=r"rows 1 to 2\): authorization: no token; send one"):
        import_labels(
            FakeClient(before),  # type: ignore[arg-type]
            write(tmp_path, "id,label\na,1\nb,2\n"),
            rejects=tmp_path / "r.csv",
        )


def test_rejects_that_cannot_be_written_are_told_before_anything_is_sent(tmp_path: Path) -> None:
    client = FakeClient()
    with pytest.raises(SourceError, match="rejects cannot be written"):
        import_labels(client, write(tmp_path, "id,label\na,1\n"), rejects=tmp_path)  # type: ignore[arg-type]
    assert client.requests == 0
