"""Progress of long work: one line a phase, with its time and, where there is one, its budget."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status


class PhasePrinter:
    """Called with a phase's name when it begins; prints the phase before with how long it took.

    Args:
        quiet: Print nothing.
        budget: Seconds by phase, shown beside the time.
    """

    def __init__(self, quiet: bool = False, budget: Mapping[str, float] | None = None) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._budget = budget or {}
        self._phase: str | None = None
        self._began = 0.0
        self._status: Status | None = None
        self.seconds: dict[str, float] = {}

    def __call__(self, phase: str, detail: str = "") -> None:
        """Begin a phase, or say more about the present one."""
        if phase != self._phase:
            self._end()
            self._phase, self._began = phase, time.monotonic()
            self._status = self._console.status(phase)
            self._status.start()
        if detail and self._status is not None:
            self._status.update(f"{phase}: {detail}")

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text)

    def _end(self, mark: str = "[green]done[/]") -> None:
        if self._phase is None:
            return
        if self._status is not None:
            self._status.stop()
        seconds = time.monotonic() - self._began
        self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + seconds
        budget = self._budget.get(self._phase)
        limit = f" (budget {budget:.0f} s)" if budget is not None else ""
        self._console.print(f"{mark} {self._phase:42} {seconds:6.1f} s{limit}")
        self._phase = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end("[green]done[/]" if kind is None else "[red]fail[/]")
