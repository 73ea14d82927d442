"""Where the service of a configuration listens, and with which token. Does not join Ray."""

import json

from ray_mlops.config import ProjectConfig
from ray_mlops.runtime.addresses import recorded_url
from ray_mlops.runtime.files import Files


def service_address(config: ProjectConfig) -> tuple[str, str | None]:
    """The gateway's address, and the operator's token where this machine has it."""
    url = recorded_url(config.store) or f"http://{config.serving.host}:{config.serving.port}"
    files = Files(str(config.store.local_root))
    token = None
    if files.exists("tokens.json"):
        token = str(json.loads(files.read("tokens.json"))["operate"])
    return url, token
