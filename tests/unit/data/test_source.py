"""Files and functions become rows, or an error that names the place."""

import gzip
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from ray_mlops.config import SourceConfig
from ray_mlops.data.readers import list_files
from ray_mlops.data.source import source_table, source_tables
from ray_mlops.data.source_files import describe_files
from ray_mlops.errors import SourceError

TABLE = pa.table({"x": [1.5, None, 3.0], "c": ["a", None, "b"], "t": ["2024-01-01", "2024-01-02T12:00:00+01:00", None]})


def write(directory: Path, name: str, table: pa.Table = TABLE) -> str:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("parquet"):
        pq.write_table(table, file)
    elif name.endswith("csv"):
        pacsv.write_csv(table, file)
    else:
        text = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
        file.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return str(file)


def read(path: Any, **more: Any) -> pa.Table:
    return source_table(SourceConfig(path=path, **more), event_time="t")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "a.jsonl.gz"])
def test_formats_give_the_same_rows(tmp_path: Path, name: str) -> None:
    table = read(write(tmp_path, name))
    assert table.schema.field("t").type == pa.timestamp("us", tz="UTC")
    assert table["t"].cast(pa.int64()).to_pylist() == [1704067200000000, 1704193200000000, None]
    assert table["x"].to_pylist() == [1.5, None, 3.0]
    assert table["c"].to_pylist() == ["a", None, "b"]


def test_csv_na_and_empty_are_null_in_text_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('c,d,t\nNA,1,2024-01-01\n,NA,2024-01-01\n"x",3,2024-01-01\n')
    table = read(str(tmp_path / "a.csv"))
    assert table["c"].to_pylist() == [None, None, "x"]
    assert table["d"].to_pylist() == [1, None, 3]


def test_paths_file_directory_glob_list_and_uri(tmp_path: Path) -> None:
    for name in ("d/b.parquet", "d/a.parquet", "d/_ignored.parquet", "d/.hidden/c.parquet", "d/sub/c.parquet"):
        write(tmp_path, name)
    names = [name for _, name in list_files(SourceConfig(path=str(tmp_path / "d")))]
    assert names == ["a.parquet", "b.parquet", "sub/c.parquet"]
    assert len(read(str(tmp_path / "d" / "*.parquet"))) == 6
    assert len(read([str(tmp_path / "d" / "a.parquet"), str(tmp_path / "d" / "sub")])) == 6
    assert len(read(f"file://{tmp_path}/d/a.parquet")) == 3
    with pytest.raises(SourceError, match="no such file or directory"):
        read(str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match="no such file or directory"):
        read(str(tmp_path / "d" / "*.csv"))


def test_files_of_one_name_in_two_directories_keep_apart(tmp_path: Path) -> None:
    paths = [str(tmp_path / part) for part in ("one", "two")]
    for part in ("one", "two"):
        write(tmp_path, f"{part}/a.parquet")
    assert [name for _, name in list_files(SourceConfig(path=paths))] == ["one/a.parquet", "two/a.parquet"]


def test_files_with_wider_types_and_missing_columns_unite(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,c,t\n1,5,2024-01-01\n")
    (tmp_path / "b.csv").write_text("x,c,t,more\n1.5,007a,2024-01-02,1\n")
    table = read(str(tmp_path))
    assert table["x"].to_pylist() == [1.0, 1.5]
    assert table["c"].to_pylist() == ["5", "007a"]
    assert table["more"].to_pylist() == [None, 1]
    write(tmp_path, "p/a.parquet", pa.table({"x": [1], "t": TABLE["t"][:1]}))
    write(tmp_path, "p/b.parquet", pa.table({"x": ["a"], "t": TABLE["t"][:1]}))
    with pytest.raises(SourceError, match="column 'x': is int64 in"):
        read(str(tmp_path / "p"))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2]), "expected timestamps, got int64"),
        (pa.array([True, False]), "expected timestamps, got bool"),
        (pa.array(["soon", "later"]), "'soon' is no ISO 8601 time"),
    ],
)
def test_event_time_that_is_no_time_is_an_error(tmp_path: Path, column: pa.Array, message: str) -> None:
    path = write(tmp_path, "a.parquet", pa.table({"t": column}))
    with pytest.raises(SourceError, match=f"event time 't': {message}"):
        read(path)


def test_event_time_single_unreadable_ones_become_null(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", pa.table({"t": ["2024-01-01", "soon"]}))
    assert read(path)["t"].null_count == 1


def test_broken_empty_and_odd_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "header.csv").write_text("x,t\n")
    (tmp_path / "bad.jsonl").write_text('{"x": 1}\n{"x": ')
    (tmp_path / "what.xlsx").write_text("")
    for name, message in (
        ("bad.parquet", "cannot be read as parquet"),
        ("empty.csv", "cannot be read as csv"),
        ("header.csv", "there are no rows"),
        ("bad.jsonl", "cannot be read as jsonl"),
        ("what.xlsx", "cannot tell the format"),
    ):
        with pytest.raises(SourceError, match=message) as caught:
            read(str(tmp_path / name))
        assert name in str(caught.value)
    with pytest.raises(SourceError, match=r"no column 'when'.*it has x, c, t"):
        source_table(SourceConfig(path=write(tmp_path, "a.parquet")), event_time="when")


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_damaged_compressed_file_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.csv.{ending}"
    path.write_bytes(b"no archive")
    with pytest.raises(SourceError, match=f"a.csv.{ending}: cannot be read as csv"):
        read(str(path))
    if ending == "gz":
        path.write_bytes(gzip.compress(b"x,t\n1,2024-01-01\n" * 100)[:30])
        with pytest.raises(SourceError, match=r"a.csv.gz: cannot be read as csv: .*ended before"):
            read(str(path))


def test_long_json_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"x": letter * 2_000_000}) + "\n" for letter in "ab"))
    assert [len(text) for text in source_table(SourceConfig(path=str(tmp_path / "a.jsonl")))["x"].to_pylist()] == [
        2_000_000,
        2_000_000,
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_text_that_is_not_utf8_names_the_column(tmp_path: Path, name: str) -> None:
    bad = pa.array([b"\xff", b"b"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
    pq.write_table(pa.table({"c": text, "x": [1, 2]}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(b"c,x\n\xff,1\nb,2\n")
    (tmp_path / "a.jsonl").write_bytes(b'{"c": "\xff", "x": 1}\n{"c": "b", "x": 2}\n')
    with pytest.raises(SourceError, match=f"{name}: the text of column 'c' is not UTF-8"):
        source_table(SourceConfig(path=str(tmp_path / name)))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("x,x\n1,2\n")
    with pytest.raises(SourceError, match=f"{name}: several columns have the name 'x'"):
        source_table(SourceConfig(path=str(tmp_path / name)))


def test_rare_arrow_types_become_usual_ones(tmp_path: Path) -> None:
    columns = {
        "v": pa.array(["a", None], pa.string_view()),
        "f": pa.array([1.5, None]).cast(pa.float16()),
        "d": pa.array([Decimal("1.5"), None], pa.decimal64(5, 1)),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = source_table(SourceConfig(path=str(tmp_path / "a.parquet")))
    assert table.schema.types == [pa.string(), pa.float32(), pa.decimal128(5, 1)]
    assert table.to_pylist() == [{"v": "a", "f": 1.5, "d": Decimal("1.5")}, {"v": None, "f": None, "d": None}]


@pytest.mark.parametrize("path", ["", " ", [], ["a.csv", ""]])
def test_empty_path_is_not_the_working_directory(path: Any) -> None:
    with pytest.raises(SourceError, match=r"data\.source\.path: no path is given"):
        read(path)


def test_describe_files_knows_rows_range_and_hash(tmp_path: Path) -> None:
    found = describe_files(SourceConfig(path=write(tmp_path, "a.parquet")), event_time="t", hashed=True)
    assert (found.rows, found.event_range) == (3, (1704067200000000, 1704193200000000))
    assert len(found.files[0].sha256) == 64
    assert found.schema.field("t").type == pa.timestamp("us", tz="UTC")


FUNCTIONS = """
import pyarrow as pa

def one(n=2):
    return pa.table({"x": list(range(n)), "t": ["2024-01-01"] * n})

def many():
    yield one(2)
    yield one(3)

def wrong():
    return [{"x": 1}]

def none():
    return None

def failing(n):
    yield one(n)
    raise KeyError("table")
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_source_code.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_source_code", raising=False)


@pytest.mark.usefixtures("functions")
def test_function_sources_return_or_yield_tables() -> None:
    assert len(source_table(SourceConfig(function="users_source_code:one", arguments={"n": 4}), event_time="t")) == 4
    source = SourceConfig(function="users_source_code:many")
    assert [len(table) for table in source_tables(source, event_time="t")] == [2, 3]
    for function, message in (("wrong", "returned dict"), ("nothing", "cannot import"), ("one", "no column 'when'")):
        with pytest.raises(SourceError, match=message):
            source_table(SourceConfig(function=f"users_source_code:{function}"), event_time="when")
    with pytest.raises(SourceError, match="there are no rows"):
        source_table(SourceConfig(function="users_source_code:one", arguments={"n": 0}), event_time="t")


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("none", {}, "returned NoneType"),
        ("failing", {"n": 1}, "the function failed: KeyError: 'table'"),
        ("failing", {}, "the function failed: TypeError: .*missing 1 required"),
        ("one", {"rows": 1}, "the function failed: TypeError: .*unexpected keyword"),
    ],
)
def test_function_source_that_fails_is_named(function: str, arguments: dict[str, Any], message: str) -> None:
    source = SourceConfig(function=f"users_source_code:{function}", arguments=arguments)
    with pytest.raises(SourceError, match=f"users_source_code:{function}: {message}"):
        source_table(source, event_time="t")
