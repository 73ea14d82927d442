"""Time a report in the environment of a peer: warm, without imports and loading. Imports nothing of ours."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def main(version: str, load: Callable[[str], Any], report: Callable[[Any, Any], object]) -> None:
    """Run ``PROGRAM REFERENCE CURRENT REPETITIONS`` and print ``{"version", "seconds"}`` as the last line."""
    reference, current = load(sys.argv[1]), load(sys.argv[2])
    report(reference, current)
    seconds = []
    for _ in range(int(sys.argv[3])):
        start = time.perf_counter()
        report(reference, current)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"version": version, "seconds": seconds}))
