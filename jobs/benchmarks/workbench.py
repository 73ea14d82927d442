"""A whole service of ours on a cluster of its own, with the versions that a benchmark needs."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from jobs.benchmarks.peer_apps.perceptron import FEATURES
from ray_mlops.config import ProjectConfig, build_config
from ray_mlops.runtime.cluster import connect
from ray_mlops.runtime.head import members
from ray_mlops.runtime.processes import ProcessRecord
from ray_mlops.runtime.record import ClusterRecord

MODEL = "bench"
ROW = {name: round(0.1 * index - 0.5, 2) for index, name in enumerate(FEATURES)}
BODY = orjson.dumps({"instances": [ROW]})
STATE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Workbench:
    """A running service."""

    config: ProjectConfig
    record: ClusterRecord
    url: str
    token: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def processes(self) -> list[ProcessRecord]:
        """Every process of the cluster: replicas, HAProxy, actors, Ray itself."""
        return members(self.record)

    def rollout(self, verb: str, **content: Any) -> Mapping[str, Any]:
        """Give an operator's command."""
        headers = {"authorization": f"Bearer {self.token}"}
        path = f"{self.url}/models/{MODEL}/rollout/{verb}"
        answer = httpx.post(path, json=content, headers=headers, timeout=30, trust_env=False)
        if answer.is_error:
            raise RuntimeError(f"cannot {verb}: {answer.text[:300]}")
        return dict(answer.json())

    def view(self) -> Mapping[str, Any]:
        """The rollout as the service shows it."""
        headers = {"authorization": f"Bearer {self.token}"}
        answer = httpx.get(f"{self.url}/models/{MODEL}/rollout", headers=headers, timeout=30, trust_env=False)
        return dict(answer.raise_for_status().json())

    def wait_for(self, *states: str) -> Mapping[str, Any]:
        """Wait until the rollout is in one of some states; in any, where none is named.

        Raises:
            TimeoutError: It does not get there.
        """
        deadline, seen = time.monotonic() + STATE_TIMEOUT_S, ""
        while time.monotonic() < deadline:
            try:
                view = self.view()
            except httpx.HTTPError as error:  # an actor that was killed comes back
                seen = repr(error)
            else:
                seen = view["state"]
                if not states or seen in states:
                    return view
            time.sleep(0.1)
        raise TimeoutError(f"the rollout is {seen}, waited for {', '.join(states) or 'any state'}")


@contextmanager
def workbench(root: Path, *, factory: str, versions: int = 2, **overrides: Any) -> Iterator[Workbench]:
    """Start a service with version 1 as champion; the cluster is stopped and its store deleted in the end.

    Args:
        root: Directory of the store; must not exist.
        factory: Model factory of all versions, by dotted path.
        versions: Registered versions; all have passed their gate.
        overrides: Sections of the configuration, beyond what every benchmark needs.
    """
    config = build_config(_content(root, factory, overrides), {})
    try:
        with connect(config) as connection:
            # Ray reads its environment, which ``connect`` sets, when it is imported: so nothing imports it earlier.
            from jobs.benchmarks.bundles import deploy_versions

            assert connection.record is not None
            deployed = deploy_versions(config, FEATURES, versions)
            tokens = orjson.loads(Path(deployed.token_file).read_bytes())
            yield Workbench(config, connection.record, deployed.url, tokens["operate"])
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _content(root: Path, factory: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": MODEL,
        "store": {"root": str(root)},
        "data": {
            "source": {"path": "unused.parquet"},
            "task": "regression",
            "target": "y",
            "features": [{"name": name} for name in FEATURES],
        },
        **overrides,
        "training": {"model": factory, **overrides.get("training", {})},
    }
