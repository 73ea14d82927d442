"""When a schedule is due, in event time. Pure."""

from datetime import UTC, datetime, timedelta

from cronsim import CronSim


def is_due(schedule: timedelta | str, since_us: int, now_us: int) -> bool:
    """Whether a schedule asks for something after one event time and not after another.

    Args:
        schedule: How often, or a cron expression (UTC).
        since_us: When it was last served, or began; microseconds since 1970 UTC.
        now_us: The watermark.

    Example:
        >>> day = 86_400_000_000
        >>> [is_due("0 3 * * *", 0, now) for now in (day // 8 - 1, day // 8)]
        [False, True]
    """
    if isinstance(schedule, timedelta):
        return now_us - since_us >= schedule // timedelta(microseconds=1)
    since = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since_us)
    following = next(CronSim(schedule, since), None)
    return following is not None and following <= since + timedelta(microseconds=now_us - since_us)
