"""Where the service of a store listens, as its gateway has recorded it. Does not join Ray."""

import json

from ray_mlops.config import StoreConfig
from ray_mlops.runtime.files import Files

_PATH = "service.json"


def record_url(store: StoreConfig, url: str) -> None:
    """Keep the gateway's address for those who only speak HTTP."""
    Files(store.root_uri).write(_PATH, json.dumps({"url": url}).encode())


def recorded_url(store: StoreConfig) -> str:
    """The gateway's address; empty where none was recorded."""
    files = Files(store.root_uri)
    return str(json.loads(files.read(_PATH))["url"]) if files.exists(_PATH) else ""
