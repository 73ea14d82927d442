"""How tables go into Parquet files."""

import pyarrow as pa


def for_parquet(table: pa.Table) -> pa.Table:
    """The table with lists of a fixed size as plain lists, inside of structs as well.

    Parquet has no lists of a fixed size: Arrow notes the size beside the file and insists on it when it reads, and
    then fails on a null (as of 25.0). A plain list is read by every tool, nulls and all.
    """
    schema = pa.schema([field.with_type(_plain(field.type)) for field in table.schema], table.schema.metadata)
    return table if schema.equals(table.schema) else table.cast(schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind
