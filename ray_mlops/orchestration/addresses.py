"""Where the service of a configuration listens, and with which token. Does not join Ray."""

import json

from ray_mlops.config import ProjectConfig
from ray_mlops.runtime.addresses import recorded_url
from ray_mlops.runtime.files import Files
from ray_mlops.serving.auth import TOKENS_FILE


def service_address(config: ProjectConfig) -> tuple[str, str | None]:
    """The gateway's address, and the operator's token where the store has it."""
    url = recorded_url(config.store) or f"http://{config.serving.host}:{config.serving.port}"
    files = Files(config.store.root_uri)
    token = None
    if files.exists(TOKENS_FILE):
        token = str(json.loads(files.read(TOKENS_FILE))["operate"])
    return url, token
