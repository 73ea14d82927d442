"""Runs stock clients of the protocols, and property-based tests of the API, on a live service: `make conformance`.

Makes an environment for the clients and one for schemathesis (in `tests/conformance/.venv`, kept for the next run)
and a small service: rows, configuration, training and gate by the command line, all in a temporary directory that
is removed at the end. With `--url` and `--grpc` a service that runs already is asked instead; it must serve the rows
of `make_rows`. `--only open_api` runs one script.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "triton_http": "clients",
    "triton_grpc": "clients",
    "kserve_clients": "clients",
    "mlflow_client": "clients",
    "open_api": "openapi",
}
"""Scripts and their environments. Each in a process of its own: two of them register the same messages."""
COMMAND = [str(Path(sys.executable).with_name("ray-mlops"))]
NUM_ROWS = 3000
GRPC_PORT = 8701


def make_environment(name: str) -> str:
    """Install packages where they disturb nobody; returns the interpreter."""
    requirements = HERE / f"requirements-{name}.txt"
    home, wanted = HERE / ".venv" / name, requirements.read_text()
    python, mark = home / "bin" / "python", home / "installed.txt"
    if not mark.exists() or mark.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
        mark.write_text(wanted)
    return str(python)


def make_rows(path: Path) -> None:
    """Write rows with a column of every type, with missing values, and a target that can be learnt."""
    random, hour = np.random.default_rng(0), np.timedelta64(3600, "s")
    distance, seats = random.uniform(100, 3000, NUM_ROWS), random.integers(50, 300, NUM_ROWS)
    carrier, holiday = random.choice(["UA", "DL", "AA"], NUM_ROWS), random.random(NUM_ROWS) < 0.2
    score = 0.001 * (distance - 1500) + 1.5 * (carrier == "AA") + holiday + random.normal(0, 0.7, NUM_ROWS)
    time = np.datetime64("2024-01-01T00:00:00", "us") + np.arange(NUM_ROWS) * hour
    columns = {
        "distance": pa.array(distance, mask=random.random(NUM_ROWS) < 0.03),
        "seats": seats,
        "carrier": pa.array(carrier.tolist(), mask=random.random(NUM_ROWS) < 0.02),
        "holiday": holiday,
        "scheduled": pa.array(time + hour),
        "time": pa.array(time),
        "late": (score > 0.5).astype(int),
    }
    pq.write_table(pa.table(columns), path)


@contextmanager
def small_service() -> Iterator[dict[str, str]]:
    """Train and serve in a temporary directory; yields the environment that the clients' scripts read."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        directory = Path(name)
        store = directory / "store"
        make_rows(directory / "flights.parquet")
        settings = {"store.root": store, "training.epochs": 3, "serving.port": 0, "serving.grpc_port": GRPC_PORT}
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]

        def command(*arguments: str) -> None:
            subprocess.run([*COMMAND, *arguments], cwd=directory, check=True)

        command("init", "flights.parquet", "--target", "late", "--event-time", "time", "--name", "flights")
        try:
            command("run", "--no-tune", *options)
            command("serve", *options)
            url = json.loads((store / "service.json").read_text())["url"]
            yield described(url, f"127.0.0.1:{GRPC_PORT}", store)
        finally:
            command("cluster", "stop", "--set", f"store.root={store}")


def described(url: str, grpc: str, store: Path) -> dict[str, str]:
    """What the clients' scripts read from their environment."""
    with urllib.request.urlopen(f"{url}/models") as response:
        version = json.load(response)["models"][0]["champion"]["version"]
    token = json.loads((store / "tokens.json").read_text())["operate"]
    return {
        "CONFORMANCE_URL": url,
        "CONFORMANCE_GRPC": grpc,
        "CONFORMANCE_OPERATOR": token,
        "CONFORMANCE_VERSION": str(version),
    }


def run_scripts(names: Sequence[str], environment: dict[str, str]) -> int:
    """Run scripts; returns how many failed."""
    failed = 0
    for name in names:
        print(f"\n== {name}", flush=True)
        script = [make_environment(SCRIPTS[name]), str(HERE / f"{name}.py")]
        failed += subprocess.run(script, env={**os.environ, **environment}).returncode != 0
    return failed


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="a running service, http://HOST:PORT")
    parser.add_argument("--grpc", help="its gRPC address, HOST:PORT")
    parser.add_argument("--store", type=Path, help="its store, for the operator's token")
    parser.add_argument("--only", choices=SCRIPTS, action="append", help="run this script (repeatable)")
    options = parser.parse_args()
    names = options.only or list(SCRIPTS)
    for name in sorted({SCRIPTS[name] for name in names}):
        make_environment(name)
    if options.url:
        failed = run_scripts(names, described(options.url, options.grpc, options.store))
    else:
        with small_service() as environment:
            failed = run_scripts(names, environment)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
