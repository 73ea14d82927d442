"""Load on one server for some seconds: by ``wrk`` where it is installed, else by our own client."""

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jobs.benchmarks.closed_loop import ClosedLoop
from jobs.benchmarks.processor_time import FindProcesses, ProcessorTime

CONNECTIONS = 16
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Target:
    """A server under load."""

    name: str
    port: int
    path: str
    body: bytes
    processes: FindProcesses
    """Whose processor time its requests cost."""
    idle_cpu: float = 0.0
    """Processor seconds a second that these processes use without load."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one stretch of load has shown."""

    rps: float
    cpu_us: float
    """Processor time of the servers for each request, microseconds, without what they use idle."""
    p50_ms: float
    failed: int


def drive(target: Target, seconds: float) -> Load:
    """Keep a server busy, and measure."""
    used = ProcessorTime(target.processes)
    start = time.perf_counter()
    requests, failed, p50_s = (_by_wrk if has_wrk() else _by_loop)(target, seconds)
    elapsed_s = time.perf_counter() - start
    cpu_s = max(0.0, used.seconds() - target.idle_cpu * elapsed_s)
    return Load(requests / seconds, cpu_s / max(requests, 1) * 1e6, p50_s * 1e3, failed)


def measure_idle(processes: FindProcesses, seconds: float) -> float:
    """Processor seconds a second that processes use while nobody asks them anything."""
    used, start = ProcessorTime(processes), time.perf_counter()
    time.sleep(seconds)
    return used.seconds() / (time.perf_counter() - start)


def interleave(targets: Sequence[Target], rounds: int, seconds: float) -> dict[str, list[Load]]:
    """Load the targets in turn, A/B/A/B..., after a round that is not counted."""
    loads: dict[str, list[Load]] = {target.name: [] for target in targets}
    for number in range(rounds + 1):
        for target in targets:
            load = drive(target, seconds if number else min(seconds, 2.0))
            if number:
                loads[target.name].append(load)
    return loads


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and greatest ratio of neighbours in an interleaved run."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


@lru_cache(maxsize=1)
def has_wrk() -> bool:
    """Whether ``wrk`` is there; says once what to install when it is not."""
    if shutil.which("wrk"):
        return True
    note = "wrk is not installed (Debian: apt-get install wrk): our own client loads instead, which is the bottleneck"
    print(note, file=sys.stderr)
    return False


def _by_wrk(target: Target, seconds: float) -> tuple[int, int, float]:
    script = f"wrk.method = 'POST'\nwrk.body = {_lua(target.body)}\nwrk.headers['Content-Type'] = 'application/json'\n"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "post.lua"
        path.write_text(script, encoding="utf-8")
        url = f"http://127.0.0.1:{target.port}{target.path}"
        options = ["-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(path)]
        result = subprocess.run(["wrk", *options, url], capture_output=True, text=True, check=True)
    return parse_wrk(result.stdout)


def parse_wrk(text: str) -> tuple[int, int, float]:
    """Read requests, failures and the median latency (seconds) from the output of ``wrk --latency``.

    Example:
        >>> parse_wrk("  50%    1.50ms\\n  300 requests in 1.00s, 1MB read\\n  Non-2xx or 3xx responses: 4\\n")
        (300, 4, 0.0015)
    """
    requests = int(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = int(refused[1]) if refused else 0
    failed += sum(map(int, broken.groups())) if broken else 0
    half = re.search(r"50%\s+([\d.]+)(us|ms|s)", text)
    return requests, failed, float(half[1]) * _UNITS_S[half[2]] if half else 0.0


def _by_loop(target: Target, seconds: float) -> tuple[int, int, float]:
    with ClosedLoop(target.port, target.path, target.body, CONNECTIONS) as loop:
        time.sleep(seconds)
    result = loop.result
    return result.requests, result.failed, statistics.median(result.latencies_s or [0.0])


def _lua(body: bytes) -> str:
    return json.dumps(body.decode("ascii"))
