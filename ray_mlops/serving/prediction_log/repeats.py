"""Prediction ids that were seen before: the first row of an id is logged, a repeat is a client's retry."""

from collections import OrderedDict

from ray_mlops.serving.prediction_log.table import LogRecord

RECENT_IDS = 100_000
"""Client-chosen prediction ids of a model that a replica remembers, to tell a repeat."""


class RecentIds:
    """Remembers the newest ids of each model.

    Attributes:
        num_repeats: Rows that were left out.
    """

    def __init__(self) -> None:
        self.num_repeats = 0
        self._recent: dict[str, OrderedDict[str, None]] = {}

    def without_repeats(self, record: LogRecord) -> LogRecord:
        """Leave out and count the rows whose ids are known."""
        recent = self._recent.get(record.format.model, OrderedDict())
        fresh = [index for index, name in enumerate(record.ids) if name not in recent]
        self.num_repeats += len(record.ids) - len(fresh)
        return record if len(fresh) == len(record.ids) else record.select(fresh)

    def remember(self, record: LogRecord) -> None:
        """Know a record's ids from now on."""
        recent = self._recent.setdefault(record.format.model, OrderedDict())
        recent.update(dict.fromkeys(record.ids))
        while len(recent) > RECENT_IDS:
            recent.popitem(last=False)
