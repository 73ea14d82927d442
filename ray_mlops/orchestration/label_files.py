"""Rows of files that hold labels, one after the other: a file is never in memory as a whole.

- Rows are counted from 1 over all files, in the order of their names.
- In CSV a cell that reads as a number or a boolean is one, whatever stands in other rows; digits after a leading
  zero are text, and so are ids. Empty fields and ``NA``, ``NaN``, ``null`` and their kin are nothing.
- A row that cannot be read is an error in its place, so that whoever reads can go on behind it.
"""

import bisect
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import PurePath
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ray_mlops.config import SourceConfig
from ray_mlops.data.readers import (
    DAMAGED,
    check_columns,
    check_names,
    file_format,
    list_files,
    open_filesystem,
)
from ray_mlops.errors import SourceError

Row = tuple[Any, ...] | SourceError
"""Values of the columns that were asked for, or why there are none."""
_BATCH_ROWS = 10_000
_LOOK_ROWS = 1000
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_PADDED = re.compile(r"[+-]?0\d")
_WORDS = {**dict.fromkeys(("true", "True", "TRUE"), True), **dict.fromkeys(("false", "False", "FALSE"), False)}
_NULLS = frozenset(pacsv.ConvertOptions().null_values)
_INT_DIGITS = 18
"""Longer whole numbers are floats, as everywhere in JSON."""


@dataclass(frozen=True, slots=True)
class LabelFile:
    """One file."""

    uri: str
    format: str
    rows: int | None
    """How many it has, where that is known without reading it."""


class LabelFiles:
    """The files of one import, looked at before any is read.

    Args:
        paths: Files, directories, globs or URIs.
        columns: Names of the columns to read; the first is that of the ids.

    Raises:
        SourceError: There is none, one cannot be read, or lacks a column.
    """

    def __init__(self, paths: str | PurePath | Sequence[str | PurePath], columns: Sequence[str]) -> None:
        given = [str(paths)] if isinstance(paths, str | PurePath) else [str(path) for path in paths]
        source = SourceConfig(path=given)
        self._columns = tuple(columns)
        self._files = [_look(uri, file_format(source, uri), self._columns) for uri, _ in list_files(source)]
        self._starts: list[int] = []
        """Number of the first row of each file that was begun."""

    def rows(self, from_row: int = 1) -> Iterator[tuple[int, Row]]:
        """Number and values of each row from one on.

        Raises:
            SourceError: A file is damaged, there are no rows, or none from that one on.
        """
        number = 0
        self._starts.clear()
        for file in self._files:
            self._starts.append(number + 1)
            if file.rows is not None and number + file.rows < from_row:
                number += file.rows
                continue
            for row in _read(file, self._columns):
                number += 1
                if number >= from_row:
                    yield number, row
        if number < from_row:
            problem = (
                f"there are only {number} rows, and none from row {from_row} on" if number else "there are no rows"
            )
            raise SourceError(problem, ", ".join(file.uri for file in self._files[:3]), "check the files")

    def place(self, number: int) -> str:
        """Where a row is, for people.

        Example:
            ``labels/part-2.csv, row 17 (row 2017 of all)``
        """
        index = max(bisect.bisect_right(self._starts, number) - 1, 0)
        within = number - self._starts[index] + 1
        more = f" (row {number} of all)" if within != number else ""
        return f"{self._files[index].uri}, row {within}{more}"


def _look(uri: str, format: str, columns: Sequence[str]) -> LabelFile:
    """See that a file can be opened and has the columns."""
    with _opened(uri, format) as stream:
        if format == "parquet":
            parquet = pq.ParquetFile(stream)
            names, rows = parquet.schema_arrow.names, parquet.metadata.num_rows
        else:
            rows = None
            names = _header(_lines(stream), uri) if format == "csv" else _keys(stream, uri)
    if names or format != "jsonl":
        check_names(names, uri)
        check_columns(names, columns, uri)
    return LabelFile(uri, format, rows)


def _read(file: LabelFile, columns: Sequence[str]) -> Iterator[Row]:
    readers: Mapping[str, Callable[..., Iterator[Row]]] = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
    with _opened(file.uri, file.format) as stream:
        yield from readers[file.format](stream, columns, file.uri)


def _parquet(stream: BinaryIO, columns: Sequence[str], uri: str) -> Iterator[Row]:
    names = list(dict.fromkeys(columns))
    for batch in pq.ParquetFile(stream).iter_batches(_BATCH_ROWS, columns=names):
        yield from zip(*(_values(batch.column(name)) for name in columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):  # Python's own times know no nanoseconds
        column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    return list(column.to_pylist())


def _csv(stream: BinaryIO, columns: Sequence[str], uri: str) -> Iterator[Row]:
    lines = _lines(stream)
    header = _header(lines, uri)
    places = [header.index(name) for name in columns]
    for cells in lines:
        if len(cells) == len(header):
            found = [cells[place] for place in places]
            yield _text(found[0]), *map(_scalar, found[1:])
        elif cells:
            yield SourceError(f"has {len(cells)} fields, and the header {len(header)}")


def _jsonl(stream: BinaryIO, columns: Sequence[str], uri: str) -> Iterator[Row]:
    for line in stream:
        if line.isspace():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield SourceError(f"is not JSON: {error}")
            continue
        yield tuple(map(row.get, columns)) if isinstance(row, dict) else SourceError("is no JSON object")


def _lines(stream: BinaryIO) -> Iterator[list[str]]:
    """Rows of CSV; bytes that are no UTF-8 stay recognisable."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    return csv.reader(text, strict=True)


def _header(lines: Iterator[list[str]], uri: str) -> list[str]:
    names = next(lines, None)
    if names is None:
        raise SourceError("is empty: it has not even a header", uri, "leave it out, or write the names of its columns")
    if not all(map(is_unicode, names)):
        raise SourceError("the names of its columns are not UTF-8", uri, "convert the file")
    return names


def _keys(stream: BinaryIO, uri: str) -> list[str]:
    """Names in the first rows of JSON lines, which may leave out what is null."""
    rows = islice(_jsonl_objects(stream), _LOOK_ROWS)
    return list(dict.fromkeys(chain.from_iterable(rows)))


def _jsonl_objects(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in stream:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict):
            yield row


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8; what was read from other bytes cannot."""
    return text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text)


def _text(cell: str) -> str | None:
    return None if cell in _NULLS else cell


@lru_cache(maxsize=4096)
def _scalar(cell: str) -> str | float | bool | None:
    """What a cell of CSV means.

    Example:
        >>> [_scalar(cell) for cell in ("1", "-2.50", "1e3", "007", "True", "NA", "UA")]
        [1, -2.5, 1000.0, '007', True, None, 'UA']
    """
    if cell in _NULLS:
        return None
    if _NUMBER.fullmatch(cell) and not _PADDED.match(cell):
        return int(cell) if cell.lstrip("+-").isdigit() and len(cell) <= _INT_DIGITS else float(cell)
    return _WORDS.get(cell, cell)


@contextmanager
def _opened(uri: str, format: str) -> Iterator[Any]:
    filesystem, path = open_filesystem(uri)
    with (
        _damage(uri, format),
        filesystem.open(path, "rb", compression=None if format == "parquet" else "infer") as stream,
    ):
        yield stream


@contextmanager
def _damage(uri: str, format: str) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowException, csv.Error, *DAMAGED) as error:
        remedy = "is the file whole, and of this format?"
        raise SourceError(f"cannot be read as {format}: {error}", uri, remedy) from error
