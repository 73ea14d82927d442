"""What the scripts share: the rows, what `POST /predict` answers to them, and a list of named checks."""

import json
import os
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np

URL = os.environ["CONFORMANCE_URL"]
GRPC = os.environ["CONFORMANCE_GRPC"]
TOKEN = os.environ["CONFORMANCE_OPERATOR"]
MODEL, VERSION = "flights", os.environ["CONFORMANCE_VERSION"]
HOST = URL.removeprefix("http://")
ROWS: list[dict[str, Any]] = [
    {"distance": 120.5, "seats": 100, "carrier": "UA", "holiday": True, "scheduled": "2024-02-01T08:30:00Z"},
    {"distance": 2000.0, "seats": 180, "carrier": "AA", "holiday": False, "scheduled": "2024-02-01T09:00:00Z"},
    {"distance": None, "seats": 55, "carrier": None, "holiday": True, "scheduled": "2024-02-02T23:59:59Z"},
]
DATATYPES = {"distance": "FP64", "seats": "INT64", "carrier": "BYTES", "holiday": "BOOL", "scheduled": "BYTES"}
DTYPES = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}
_results: list[bool] = []


def ask_predict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Our own protocol's answer: every other must say the same, to the bit."""
    body = json.dumps({"instances": rows}).encode()
    request = urllib.request.Request(f"{URL}/predict", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return dict(json.load(response))


EXPECTED = [row["probability"] for row in ask_predict(ROWS)["predictions"]]
LABELS = [row["label"] for row in ask_predict(ROWS)["predictions"]]


def columns() -> dict[str, np.ndarray]:
    """The rows as one array for each column: NaN and the empty string where a value is missing."""
    arrays = {}
    for name, datatype in DATATYPES.items():
        values = [row[name] for row in ROWS]
        if datatype == "BYTES":
            arrays[name] = np.array([value or "" for value in values], dtype=object)
        else:
            arrays[name] = np.array([np.nan if value is None else value for value in values], DTYPES[datatype])
    return arrays


def check(name: str) -> Callable[[Callable[[], Any]], None]:
    """Run a check at once; one that returns False, or raises, has failed."""

    def run(body: Callable[[], Any]) -> None:
        try:
            outcome = body()
            is_good, reason = outcome is not False, ""
        except Exception:  # each client raises errors of its own
            is_good, reason = False, traceback.format_exc(limit=-3)
        _results.append(is_good)
        print(f"{'ok  ' if is_good else 'FAIL'} {name}", flush=True)
        if reason:
            print("     " + reason.replace("\n", "\n     "))

    return run


def raises(body: Callable[[], Any], *parts: str) -> bool:
    """Whether a call fails, and its error says all of these."""
    try:
        body()
    except Exception as error:
        said = f"{error!r} {error}"
        if missing := [part for part in parts if part not in said]:
            raise AssertionError(f"the error does not say {missing}: {said}") from error
        return True
    return False


def finish(client: str) -> None:
    """Print the sum, and end with its exit code."""
    print(f"{client}: {sum(_results)} of {len(_results)} checks passed")
    raise SystemExit(0 if _results and all(_results) else 1)
