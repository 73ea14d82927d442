"""Where the service of a store listens. Does not join Ray."""

import json

from ray_mlops.config import ProjectConfig
from ray_mlops.runtime.files import Files, write_atomically

_PATH = "service.json"


def record_address(config: ProjectConfig, url: str) -> None:
    """Keep the gateway's address for commands that only speak HTTP."""
    target = config.store.local_root / _PATH
    write_atomically(target, json.dumps({"url": url}).encode())


def service_address(config: ProjectConfig) -> tuple[str, str | None]:
    """The gateway's address, and the operator's token where this machine has it."""
    root = config.store.local_root
    files = Files(str(root))
    url = f"http://{config.serving.host}:{config.serving.port}"
    if files.exists(_PATH):
        url = str(json.loads(files.read(_PATH))["url"])
    token = None
    if files.exists("tokens.json"):
        token = str(json.loads(files.read("tokens.json"))["operate"])
    return url, token
