"""Which endpoint a method and path mean."""

import difflib
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from ray_mlops.errors import NotFoundError
from ray_mlops.serving.auth import Role

Endpoint = Literal[
    "index", "models", "healthz", "metrics", "openapi", "console",
    "predict", "feedback", "rollout", "command", "monitoring", "explain",
]  # fmt: skip
COMMANDS = ("start", "pause", "resume", "promote", "rollback")
METHODS: dict[Endpoint, str] = {"predict": "POST", "feedback": "POST", "command": "POST"}
"""Endpoints that are not read with GET."""
ROLES: dict[Endpoint, Role | None] = {
    "healthz": None,
    "predict": "predict",
    "feedback": "label",
    "command": "operate",
}
"""Roles other than ``read``; None is for everyone."""
_PLAIN: dict[str, Endpoint] = {
    "": "index",
    "models": "models",
    "healthz": "healthz",
    "metrics": "metrics",
    "openapi.json": "openapi",
}
_OF_MODEL: dict[str, Endpoint] = {
    "predict": "predict",
    "feedback": "feedback",
    "rollout": "rollout",
    "monitoring": "monitoring",
}
_SHOWN = (*_PLAIN, *_OF_MODEL, "console", "explain/ID", *(f"rollout/{verb}" for verb in COMMANDS))


@dataclass(frozen=True, slots=True)
class Target:
    """What a path means."""

    endpoint: Endpoint
    model: str | None = None
    """None: the path names none."""
    argument: str = ""
    """The command of a rollout, or the id to explain."""

    @property
    def role(self) -> Role | None:
        """The role that is needed."""
        return ROLES.get(self.endpoint, "read")

    def allows(self, method: str) -> bool:
        """Whether the endpoint answers this method; the console decides for itself."""
        wanted = METHODS.get(self.endpoint, "GET")
        return self.endpoint == "console" or method == wanted or (method == "HEAD" and wanted == "GET")


def resolve(path: str) -> Target:
    """Find the endpoint of a path.

    Raises:
        NotFoundError: There is none; names the nearest.

    Example:
        >>> resolve("/models/flights/rollout/start")
        Target(endpoint='command', model='flights', argument='start')
    """
    parts = path.strip("/").split("/")
    model = None
    if parts[0] == "models" and len(parts) > 2:
        model, parts = unquote(parts[1]), parts[2:]
    elif parts[0] == "console":
        return Target("console")
    elif len(parts) == 1 and parts[0] in _PLAIN:
        return Target(_PLAIN[parts[0]])
    if len(parts) == 1 and parts[0] in _OF_MODEL:
        return Target(_OF_MODEL[parts[0]], model)
    if len(parts) == 2 and parts[0] == "rollout" and parts[1] in COMMANDS:
        return Target("command", model, parts[1])
    if len(parts) == 2 and parts[0] == "explain" and parts[1]:
        return Target("explain", model, unquote(parts[1]))
    prefix = f"/models/{model}/" if model is not None else "/"
    found = difflib.get_close_matches("/".join(parts), _SHOWN, n=1)
    remedy = f"did you mean {prefix}{found[0]}?" if found else "see /openapi.json"
    raise NotFoundError(f"no such path {path!r}", "path", remedy)
