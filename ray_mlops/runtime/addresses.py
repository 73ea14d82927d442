"""Where the service of a store listens, as its gateway has recorded it. Does not join Ray."""

import json

from ray_mlops.config import StoreConfig
from ray_mlops.runtime.files import Files, write_atomically

_PATH = "service.json"


def record_url(store: StoreConfig, url: str) -> None:
    """Keep the gateway's address for those who only speak HTTP."""
    write_atomically(store.local_root / _PATH, json.dumps({"url": url}).encode())


def recorded_url(store: StoreConfig) -> str:
    """The gateway's address; empty where none was recorded on this machine."""
    files = Files(str(store.local_root))
    return str(json.loads(files.read(_PATH))["url"]) if files.exists(_PATH) else ""
