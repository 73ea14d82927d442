"""Files in: Parquet, CSV and JSON lines, from a path, directory, glob, list or URI. No Ray here.

- Compressed text (``.gz``, ``.bz2``, ``.zst``, ``.zip``) is read as such.
- In CSV, empty fields and ``NA``, ``NaN``, ``null`` and their kin are null, in text columns too.
- The event time column becomes ``timestamp(us, UTC)``: timestamps, dates or ISO 8601 strings; numbers are
  refused, since nobody can tell seconds from milliseconds. A string that cannot be read becomes null, for the
  contract to set aside; when none can, it is an error.
"""

import logging
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq
import pyarrow.types as pat
from fsspec.implementations.arrow import ArrowFSWrapper

from ray_mlops.config import SourceConfig
from ray_mlops.data.columns import INPUT_TYPES, is_text, one_chunk, parse_times, time_values
from ray_mlops.data.values import MISSING_US
from ray_mlops.data.vectors import is_list, vector_length
from ray_mlops.errors import SourceError

logger = logging.getLogger(__name__)

_ENDINGS = {"parquet": "parquet", "pq": "parquet", "csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl"}
_COMPRESSIONS = {"gz", "bz2", "zst", "zip", "xz"}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What reading a damaged compressed file raises."""
_JSON_BLOCK_BYTES = 1 << 24
"""No row of JSON lines may be longer."""
_MAGIC = frozenset("*?[")
_NULL_LISTS = "write vectors as plain lists: Arrow cannot read a null back where lists have a fixed size"


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a path or URI, and the path in it.

    Raises:
        SourceError: No installed package knows the scheme.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        return filesystem, str(path)
    except (ImportError, ValueError) as error:
        try:
            arrow, path = pafs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, OSError):
            raise SourceError(f"no filesystem for this address: {error}", uri, "install its fsspec package") from error
        return ArrowFSWrapper(arrow), str(path)


def list_files(source: SourceConfig) -> list[tuple[str, str]]:
    """Files of a source: address, and name relative to what was given; sorted by name.

    Hidden files and those that start with ``_`` are left out.

    Raises:
        SourceError: There are none.
    """
    paths = [source.path] if isinstance(source.path, str) else list(source.path or [])
    found: dict[str, str] = {}
    if not paths or not all(path.strip() for path in paths):  # an empty one would be the working directory
        raise SourceError("no path is given", "data.source.path", "name a file, a directory or a URI")
    for path in paths:
        matched = _expand(path)
        if not matched:
            raise SourceError("no such file or directory, or nothing in it", path, "check data.source.path")
        found.update(matched)
    names = list(found.values())
    if len(set(names)) < len(names):  # several directories with files of the same name
        found = {uri: uri.lstrip("/").removeprefix(_common(found)) for uri in found}
    return sorted(found.items(), key=lambda pair: pair[1])


def file_format(source: SourceConfig, uri: str) -> str:
    """The format of a file, by the configuration or by its ending.

    Raises:
        SourceError: The ending says nothing.
    """
    if source.format != "auto":
        return source.format
    parts = uri.lower().rsplit("/", 1)[-1].split(".")
    ending = parts[-2] if parts[-1] in _COMPRESSIONS and len(parts) > 2 else parts[-1]
    if ending not in _ENDINGS:
        raise SourceError(f"cannot tell the format from the ending {ending!r}", uri, "set data.source.format")
    return _ENDINGS[ending]


def read_file(
    uri: str,
    format: str,
    *,
    schema: pa.Schema | None = None,
    columns: Sequence[str] | None = None,
    event_time: str | None = None,
    row_groups: Sequence[int] | None = None,
) -> pa.Table:
    """Read one file.

    Args:
        uri: A path or URI.
        format: ``parquet``, ``csv`` or ``jsonl``.
        schema: Cast to this; columns that the file lacks become null.
        columns: Only these.
        event_time: The column to turn into ``timestamp(us, UTC)``.
        row_groups: Parquet: only these.

    Raises:
        SourceError: It is missing, unreadable or does not fit the schema.
    """
    filesystem, path = open_filesystem(uri)
    try:
        with filesystem.open(path, "rb", compression=None if format == "parquet" else "infer") as stream:
            table = _read_stream(stream, format, schema, columns, event_time, row_groups)
    except FileNotFoundError:
        raise SourceError("no such file", uri) from None
    except (OSError, pa.ArrowException, *DAMAGED) as error:
        is_null_list = "Expected all lists to be of size" in str(error)
        remedy = _NULL_LISTS if is_null_list else "is the file whole, and of this format?"
        raise SourceError(f"cannot be read as {format}: {error}", uri, remedy) from error
    check_names(table.column_names, uri)
    _check_text(table, format, uri)
    table = normalise_event_time(table.replace_schema_metadata(None), event_time, uri)
    return table if schema is None else conform(table, schema, columns, uri)


def normalise_event_time(table: pa.Table, event_time: str | None, where: str) -> pa.Table:
    """The table with its event time as ``timestamp(us, UTC)``.

    Raises:
        SourceError: The column holds numbers or something else that is no time, or only unreadable strings.
    """
    if event_time is None or event_time not in table.column_names:
        return table
    array = one_chunk(table[event_time])
    place = f"{where}: event time {event_time!r}"
    if is_text(array.type):
        times, wrong = parse_times(array)
        if wrong.any():
            example = array[int(np.argmax(wrong))].as_py()
            if wrong.sum() + array.null_count == len(array):
                raise SourceError(f"{example!r} is no ISO 8601 time", place, "convert the column in the source")
            logger.warning("unreadable event times place=%s rows=%d example=%r", where, int(wrong.sum()), example)
    elif pat.is_timestamp(array.type) or pat.is_date(array.type) or pat.is_null(array.type):
        times = time_values(array, event_time)
    else:
        remedy = "convert it to a timestamp column: a bare number does not say its unit"
        raise SourceError(f"expected timestamps, got {array.type}", place, remedy)
    normal = pa.array(times, pa.int64(), mask=times == MISSING_US).cast(INPUT_TYPES["datetime"])
    return table.set_column(table.column_names.index(event_time), event_time, normal)


def conform(table: pa.Table, schema: pa.Schema, columns: Sequence[str] | None, where: str) -> pa.Table:
    """The table with a schema's columns, order and types; absent columns are null.

    Raises:
        SourceError: A value does not fit its type.
    """
    fields = [schema.field(name) for name in (columns or schema.names)]
    arrays = []
    for field in fields:
        if field.name not in table.column_names:
            arrays.append(pa.nulls(len(table), field.type))
            continue
        try:
            arrays.append(table[field.name].cast(field.type, safe=not pat.is_floating(field.type)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(f"does not fit {field.type}: {error}", f"{where}: column {field.name!r}") from error
    return pa.table(arrays, schema=pa.schema(fields))


def unify(schemas: Mapping[str, pa.Schema], format: str) -> pa.Schema:
    """One schema for several files: integers widen to floats, nulls to anything, in CSV anything to text.

    Raises:
        SourceError: A column has types that do not go together; names a file for each.
    """
    fields: dict[str, pa.DataType] = {}
    first: dict[str, str] = {}
    for uri, schema in schemas.items():
        for field in schema:
            known = fields.setdefault(field.name, field.type)
            first.setdefault(field.name, uri)
            if known != field.type:
                fields[field.name] = _wider(field.name, (known, first[field.name]), (field.type, uri), format)
    return pa.schema(list(fields.items()))


def usual_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with types that Arrow's kernels know instead of rare ones: text views, half floats, short decimals.

    Example:
        >>> usual_schema(pa.schema([("x", pa.float16()), ("c", pa.string_view())])).types
        [DataType(float), DataType(string)]
    """
    return pa.schema([pa.field(field.name, _usual_type(field.type)) for field in schema])


def check_names(names: Sequence[str], where: str) -> None:
    """See that no two columns have one name.

    Raises:
        SourceError: Two have; names them.
    """
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise SourceError(f"several columns have the name {repeated[0]!r}", where, "give each a name of its own")


def check_columns(names: Iterable[str], wanted: Sequence[str | None], where: str) -> None:
    """See that the columns which the configuration names are there.

    Raises:
        SourceError: One is not.
    """
    have = list(names)
    for name in wanted:
        if name is not None and name not in have:
            raise SourceError(f"no column {name!r}", where, f"it has {', '.join(have)}")


def _read_stream(
    stream: Any,
    format: str,
    schema: pa.Schema | None,
    columns: Sequence[str] | None,
    event_time: str | None,
    row_groups: Sequence[int] | None,
) -> pa.Table:
    if format == "parquet":
        file = pq.ParquetFile(stream)
        present = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        return file.read(present) if row_groups is None else file.read_row_groups(list(row_groups), present)
    types = {field.name: field.type for field in schema or [] if field.name != event_time}
    if format == "jsonl":
        explicit = pa.schema(list(types.items())) if types else None
        blocks = pajson.ReadOptions(block_size=_JSON_BLOCK_BYTES)
        table = pajson.read_json(stream, blocks, pajson.ParseOptions(explicit_schema=explicit))
        return table if columns is None else table.select([name for name in columns if name in table.column_names])
    if event_time is not None:
        types[event_time] = pa.string()
    convert = pacsv.ConvertOptions(column_types=types, strings_can_be_null=True)
    table = pacsv.read_csv(stream, convert_options=convert)
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def _usual_type(kind: pa.DataType) -> pa.DataType:
    if pat.is_string_view(kind):
        return pa.string()
    if pat.is_float16(kind):
        return pa.float32()
    if is_list(kind) and _usual_type(kind.value_type) != kind.value_type:
        return pa.list_(_usual_type(kind.value_type), vector_length(kind) or -1)
    if pat.is_decimal32(kind) or pat.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def _check_text(table: pa.Table, format: str, uri: str) -> None:
    """See that text is UTF-8: of CSV Arrow makes binary columns otherwise, elsewhere it does not look."""
    for name in table.column_names:
        column = table[name]
        try:
            if format == "csv" and pat.is_binary(column.type):
                raise pa.ArrowInvalid("Invalid UTF8")
            if is_text(column.type):
                column.validate(full=True)
        except pa.ArrowInvalid:
            problem = f"the text of column {name!r} is not UTF-8"
            raise SourceError(problem, uri, "convert the file, or leave the column out of it") from None


def _expand(path: str) -> dict[str, str]:
    filesystem, inner = open_filesystem(path)
    inner = inner.rstrip("/") or "/"
    if filesystem.isfile(inner):
        found, base = [inner], inner.rpartition("/")[0]
    elif filesystem.isdir(inner):
        found, base = filesystem.find(inner), inner
    elif _MAGIC & set(path):
        found = [name for name in filesystem.glob(inner) if filesystem.isfile(name)]
        base = inner[: min(inner.index(sign) for sign in _MAGIC if sign in inner)].rpartition("/")[0]
    else:
        return {}
    named = [(name, name[len(base) :].lstrip("/")) for name in found]
    kept = [(name, short) for name, short in named if not any(part[0] in "._" for part in short.split("/"))]
    return {_address(filesystem, name): short for name, short in kept}


def _address(filesystem: fsspec.AbstractFileSystem, name: str) -> str:
    local = "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,))
    return name if local else str(filesystem.unstrip_protocol(name))


def _common(found: Mapping[str, str]) -> str:
    """The longest leading directory that all addresses share."""
    split = [uri.lstrip("/").split("/")[:-1] for uri in found]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}/" for part in shared)


def _wider(name: str, known: tuple[pa.DataType, str], found: tuple[pa.DataType, str], format: str) -> pa.DataType:
    (left, left_uri), (right, right_uri) = known, found
    both = [pa.schema([(name, left)]), pa.schema([(name, right)])]
    try:
        return pa.unify_schemas(both, promote_options="permissive").field(name).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        if format == "csv":
            return pa.string()
        problem = f"is {left} in {left_uri} and {right} in {right_uri}"
        raise SourceError(problem, f"column {name!r}", "give the files one schema") from None
