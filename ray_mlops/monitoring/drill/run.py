"""One drill: clean windows in random order, then each fault on the windows after them; several times over."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ray_mlops.config import FaultName, ProjectConfig
from ray_mlops.data.reference import ReferenceProfile
from ray_mlops.errors import DataError, MonitoringError
from ray_mlops.monitoring.drill.injections import INJECTIONS, eligible_columns
from ray_mlops.monitoring.drill.observing import Observed, Observer
from ray_mlops.monitoring.drill.stream import Stretch, joined, permuted
from ray_mlops.monitoring.drill.watch import DrillWatch, MonitorName, is_named
from ray_mlops.monitoring.epoch import without_redacted
from ray_mlops.monitoring.strata import stratum_of
from ray_mlops.training.bundle import ModelBundle

OnRun = Callable[[int, int], None]
"""Called with how many repeats are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a drill does."""

    faults: tuple[FaultName, ...]
    repeats: int = 20
    clean: int = 10
    """Windows without a fault, after the reference."""
    windows: int = 10
    """Windows with one, after them."""
    column: str | None = None
    """The column that is hit; None hits each in turn, the most important first."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FaultRun:
    """One fault in one repeat."""

    fault: FaultName
    column: str
    """The column that was hit, or that defines the slice; empty where none was."""
    delays: Mapping[MonitorName, float]
    """Windows from the fault's beginning until a monitor spoke, the first counted as 1; without those that never did,
    and those that had spoken before the fault."""
    is_named: Mapping[MonitorName, bool]
    """Of the monitors that spoke and name columns: whether the column that was hit was named first."""
    alarms: tuple[Mapping[str, Any], ...] = ()
    """What was raised in the first window in which anything was."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """What the policy made of that (see ``Spoken.policy``)."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """One order of the windows."""

    clean: Mapping[MonitorName, int]
    """The clean window, from 1, in which a monitor first spoke: a false alarm."""
    faults: tuple[FaultRun, ...]
    is_warming_up: bool


@dataclass(frozen=True)
class Drill:
    """A model, and the stream that it is drilled on.

    Args:
        bundle: The model.
        config: Its configuration.
        stretch: The copy of the stream; windows with fewer than ``monitoring.min_window_rows`` rows are left out.
        plan: What is done.

    Raises:
        DataError: There are too few windows.
    """

    bundle: ModelBundle
    config: ProjectConfig
    stretch: Stretch
    plan: Plan
    windows: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        least = self.config.monitoring.min_window_rows
        sizes = dict(zip(*np.unique(self.stretch.window, return_counts=True), strict=True))
        fit = tuple(window for window in self.stretch.windows if sizes[window] >= least)
        object.__setattr__(self, "windows", fit)
        needed = self.plan.clean + self.plan.windows + self.config.monitoring.reference.min_windows
        if len(fit) < needed:
            problem = f"{len(fit)} windows with at least {least} rows, a drill needs {needed}"
            parts = f"{self.plan.clean} clean, {self.plan.windows} with a fault, {needed} with a reference"
            raise DataError(problem, "drill", f"{parts}: ask for fewer with --windows, or give it more rows")

    @cached_property
    def profile(self) -> ReferenceProfile:
        """What is watched."""
        return without_redacted(self.bundle.profile, self.config)

    @cached_property
    def observer(self) -> Observer:
        return Observer(self.bundle, self.profile, self.config.data.contract.columns)

    @cached_property
    def seen(self) -> dict[int, Observed]:
        """Every window as it is."""
        return self.observer.observe(joined([self.stretch.part(window) for window in self.windows]))

    @property
    def num_reference(self) -> int:
        """Windows of the reference: no more than the model's own would have."""
        left = len(self.windows) - self.plan.clean - self.plan.windows
        return min(left, self.config.monitoring.reference_windows)

    def columns_of(self, fault: FaultName) -> list[str]:
        """The columns that a fault befalls in turn; empty where it can befall none.

        Raises:
            MonitoringError: The plan names a column that none of the faults can befall.
        """
        found = eligible_columns(INJECTIONS[fault], self.bundle.features.columns, self.profile, self.stretch)
        if self.plan.column is None or found == [""]:
            return found
        return [self.plan.column] if self.plan.column in found else []

    def run(self, on_run: OnRun | None = None) -> list[Repeat]:
        """Run all repeats.

        Raises:
            MonitoringError: No fault can befall the plan's column.
        """
        columns = {fault: self.columns_of(fault) for fault in self.plan.faults}
        if not any(columns.values()):
            known = ", ".join(column.name for column in self.bundle.features.columns)
            where = f"column {self.plan.column!r}" if self.plan.column else "drill"
            raise MonitoringError("no fault can befall it", where, f"columns of the model: {known}")
        repeats = []
        for number in range(self.plan.repeats):
            repeats.append(self.repeat(number, columns))
            if on_run is not None:
                on_run(number + 1, self.plan.repeats)
        return repeats

    def repeat(self, number: int, columns: Mapping[FaultName, Sequence[str]]) -> Repeat:
        """Run every fault on one order of the windows."""
        rng = np.random.default_rng([self.plan.seed, number])
        order = self._order(rng)
        places = list(order)
        first_clean, first_faulty = self.num_reference, self.num_reference + self.plan.clean
        reference = {place: self.seen[order[place]] for place in places[:first_clean]}
        watch = DrillWatch(self.profile, reference, self.config)
        is_warming_up, clean = watch.is_warming_up, dict[MonitorName, int]()
        for index, place in enumerate(places[first_clean:first_faulty], 1):
            for monitor in watch.update(place, self.seen[order[place]]).named:
                clean.setdefault(monitor, index)
        state = watch.state()
        before = self._rows(order, places[:first_faulty])
        after = self._rows(order, places[first_faulty : first_faulty + self.plan.windows])
        runs = []
        for fault, eligible in columns.items():
            if eligible:
                watch.restore(state)
                column = eligible[number % len(eligible)]
                changed = INJECTIONS[fault].inject(after, column, before, rng)
                runs.append(self._fault_run(fault, column, watch, self.observer.observe(changed), clean))
        return Repeat(clean, tuple(runs), is_warming_up)

    def _fault_run(
        self,
        fault: FaultName,
        column: str,
        watch: DrillWatch,
        seen: Mapping[int, Observed],
        clean: Mapping[MonitorName, int],
    ) -> FaultRun:
        delays: dict[MonitorName, float] = {}
        named: dict[MonitorName, bool] = {}
        alarms: tuple[Mapping[str, Any], ...] = ()
        policy: Mapping[str, Any] = {}
        for delay, (place, observed) in enumerate(seen.items(), 1):
            spoken = watch.update(place, observed)
            policy = policy if alarms else spoken.policy
            alarms = alarms or spoken.alarms
            for monitor, columns in spoken.named.items():
                if monitor not in delays and monitor not in clean:
                    delays[monitor] = delay
                    if INJECTIONS[fault].names_column and columns:
                        named[monitor] = is_named(column, columns)
        return FaultRun(fault, column, delays, named, alarms, policy)

    def _order(self, rng: np.random.Generator) -> dict[int, int]:
        monitoring = self.config.monitoring
        newest = self.windows[-(self.num_reference + self.plan.clean + self.plan.windows) :]
        if monitoring.strata == "none":
            return permuted(newest, [0] * len(newest), rng)
        strata = [stratum_of(window, self.profile.window_us, monitoring.strata) for window in newest]
        return permuted(newest, strata, rng)

    def _rows(self, order: Mapping[int, int], places: Sequence[int]) -> Stretch:
        return joined([self.stretch.part(order[place]).moved(place) for place in places])
