"""Which label of a prediction counts: the first, until one comes that is marked as a correction.

The newest correction wins (by arrival, then by place in the log). What was not known by a moment plays no part
in what is said of that moment.
"""

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.data.columns import one_chunk
from ray_mlops.data.target import TargetEncoder


def labels_in_force(labels: pa.Table, as_of_us: int | None = None) -> pa.Table:
    """The label of each id that is in force by a moment.

    Args:
        labels: Columns as ``LABEL_SCHEMA``, in order of arrival, as ``read_labels`` gives them.
        as_of_us: Event time, microseconds since 1970 UTC; None: all that is known. A label is known from its own
            time on, or from its arrival where it has none.

    Returns:
        The chosen rows, one for each id, in order of arrival.

    Example:
        >>> rows = {"id": ["a", "b", "a"], "label": ["0", "1", "1"], "time": [1, 2, 3], "arrival": [1, 2, 3]}
        >>> labels = pa.table({**rows, "is_correction": [False, False, True]})
        >>> labels_in_force(labels)["label"].to_pylist(), labels_in_force(labels, as_of_us=2)["label"].to_pylist()
        (['1', '1'], ['0', '1'])
    """
    if as_of_us is not None:
        labels = labels.filter(pc.less_equal(pc.coalesce(labels["time"], labels["arrival"]), as_of_us))
    ids = one_chunk(labels["id"]).dictionary_encode()
    codes = ids.indices.to_numpy(zero_copy_only=False)
    rows = np.arange(len(codes))
    chosen = np.zeros(len(ids.dictionary), np.int64)
    chosen[codes[::-1]] = rows[::-1]  # of several the last assignment stays: here the first row
    corrections = rows[one_chunk(labels["is_correction"]).to_numpy(zero_copy_only=False)]
    chosen[codes[corrections]] = corrections
    return labels.take(pa.array(np.sort(chosen)))


def known_targets(
    ids: pa.ChunkedArray, labels: pa.Table, encoder: TargetEncoder, as_of_us: int | None = None
) -> npt.NDArray[np.float64]:
    """The encoded label in force of each prediction [n]; NaN where none is known.

    Args:
        ids: Prediction ids [n].
        labels: As for ``labels_in_force``.
        encoder: The target's classes.
        as_of_us: As for ``labels_in_force``.

    Raises:
        DataError: A label of one of the predictions is none of the target's.
    """
    known = labels_in_force(labels, as_of_us)
    places = pc.index_in(one_chunk(ids).cast(pa.string()), value_set=one_chunk(known["id"]))
    texts = one_chunk(known["label"]).take(places).dictionary_encode()
    values = [encoder.encode_value(orjson.loads(text)) for text in texts.dictionary.to_pylist()]
    found: npt.NDArray[np.float64] = np.array([*values, np.nan])[
        texts.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    ]
    return found
