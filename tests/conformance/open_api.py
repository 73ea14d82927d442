"""Holds a live service against its own OpenAPI document: `schemathesis`, every endpoint, every check of answers.

Nothing may be a 5xx, or an answer that the document does not describe; what the document forbids must be refused.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
URL, TOKEN = os.environ["CONFORMANCE_URL"], os.environ["CONFORMANCE_OPERATOR"]
MAX_EXAMPLES = os.environ.get("CONFORMANCE_EXAMPLES", "30")
"""Cases of each endpoint and phase."""
EXPLAINED = "conformance-explained"
"""Named in schemathesis.toml."""


def ask(method: str, path: str, body: object = None) -> int:
    """Make one call; returns the status."""
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{URL}{path}", content, headers, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def make_explained() -> None:
    """Predict a row under a known id, and wait until the log has it."""
    row = {"distance": 120.5, "seats": 100, "carrier": "UA", "holiday": True, "scheduled": "2024-02-01T08:30:00Z"}
    assert ask("POST", "/predict", {"instances": [row], "ids": [EXPLAINED]}) == 200
    deadline = time.monotonic() + 60
    while ask("GET", f"/explain/{EXPLAINED}") != 200 and time.monotonic() < deadline:
        time.sleep(0.2)


def main() -> None:
    """Run every phase; ends with its exit code."""
    make_explained()
    command = [str(Path(sys.executable).with_name("schemathesis"))]
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:  # it keeps a database of cases where it runs
        command += ["--config-file", str(HERE / "schemathesis.toml"), "run", f"{URL}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {TOKEN}", "--max-examples", MAX_EXAMPLES, "--seed", "1"]
        raise SystemExit(subprocess.run([*command, "--no-color"], cwd=scratch).returncode)


if __name__ == "__main__":
    main()
