"""The prediction log as one dataset, for pyarrow, pandas, DuckDB and Ray Data."""

import pyarrow as pa
import pyarrow.dataset as ds

from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.files import unite_schemas
from ray_mlops.serving.prediction_log.listing import LogListing, read_live

DAY = pa.field("day", pa.string())
"""The partition: UTC day of event time, from the directory's name."""


def prediction_dataset(files: Files, model: str) -> ds.Dataset:
    """A lazy dataset of the files that count, each row once, with the columns of every version of the model.

    It is a view of this moment: where a day is compacted before it has been read, reading fails with the name of
    the file that is gone, and ``prediction_dataset`` is to be called again.

    Args:
        files: The store.
        model: The model's name.

    Returns:
        Columns as ``serving.protocol.LOG_COLUMNS`` says, and ``day``. ``.files`` are the paths, ``.schema`` is what
        every version has in common; other readers take both.

    Raises:
        StoreError: A file cannot be read.
    """
    schemas = read_live(LogListing(files, model), lambda name: files.read_footer(name).schema.to_arrow_schema())
    filesystem, root = files.arrow()
    schema = unite_schemas(list(schemas.values())).append(DAY)
    return ds.dataset(
        [f"{root}/{name}" for name in schemas],
        schema=schema,
        format="parquet",
        filesystem=filesystem,
        partitioning=ds.HivePartitioning(pa.schema([DAY])),
        partition_base_dir=f"{root}/predictions/{model}",
    )
