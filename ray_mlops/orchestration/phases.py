"""Who is told how far long work has come."""

from collections.abc import Callable

OnPhase = Callable[[str, str], None]
"""Called with the name of a phase and a detail of it."""


def silent(phase: str, detail: str = "") -> None:
    """Report nothing."""
