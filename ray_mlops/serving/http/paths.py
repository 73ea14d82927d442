"""Which endpoint a method and path mean, and whose protocol it is."""

import difflib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote

from ray_mlops.errors import NotFoundError
from ray_mlops.serving.auth import Role
from ray_mlops.serving.http.refusal import ProtocolName

Endpoint = Literal[
    "index", "models", "healthz", "metrics", "openapi", "console",
    "predict", "feedback", "rollout", "command", "monitoring", "explain",
    "oip_server", "oip_live", "oip_ready", "oip_models", "oip_index", "oip_model", "oip_model_ready", "oip_infer",
    "invocations", "ping", "mlflow_version",
]  # fmt: skip
COMMANDS = ("start", "pause", "resume", "promote", "rollback", "abort", "shadow")
METHODS: dict[Endpoint, str] = dict.fromkeys(
    ("predict", "feedback", "command", "oip_infer", "oip_index", "invocations"), "POST"
)
"""Endpoints that are not read with GET."""
ROLES: dict[Endpoint, Role | None] = {
    **dict.fromkeys(("healthz", "oip_live", "oip_ready", "oip_model_ready", "ping"), None),
    **dict.fromkeys(("predict", "oip_server", "oip_models", "oip_index", "oip_model", "oip_infer"), "predict"),
    **dict.fromkeys(("invocations", "mlflow_version"), "predict"),
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
    "ping": "ping",
    "health": "ping",
    "version": "mlflow_version",
}
_OF_MODEL: dict[str, Endpoint] = {
    "predict": "predict",
    "feedback": "feedback",
    "rollout": "rollout",
    "monitoring": "monitoring",
    "invocations": "invocations",
}
_SHOWN = (*_PLAIN, *_OF_MODEL, "console", "explain/ID", *(f"rollout/{verb}" for verb in COMMANDS))
_OIP_PLAIN: dict[tuple[str, ...], Endpoint] = {
    (): "oip_server",
    ("health", "live"): "oip_live",
    ("health", "ready"): "oip_ready",
    ("models",): "oip_models",
    ("repository", "index"): "oip_index",
}
_OIP_OF_MODEL: dict[tuple[str, ...], Endpoint] = {
    (): "oip_model",
    ("ready",): "oip_model_ready",
    ("infer",): "oip_infer",
}
_MLFLOW = ("invocations", "ping", "health", "version")
_REMEMBERED_LENGTH = 256
"""Longer paths are not remembered: strangers choose them."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a path means."""

    endpoint: Endpoint
    model: str | None = None
    """None: the path names none."""
    argument: str = ""
    """The command of a rollout, or the id to explain."""
    version: str | None = None
    """The version that the path names."""

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
        Target(endpoint='command', model='flights', argument='start', version=None)
        >>> resolve("/v2/models/flights/versions/3/infer").version
        '3'
    """
    return _resolve_again(path) if len(path) <= _REMEMBERED_LENGTH else _resolve(path)


def _resolve(path: str) -> Target:
    parts = path.strip("/").split("/")
    model = None
    if parts[0] == "v2":
        return _resolve_oip(path, parts[1:])
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


_resolve_again = lru_cache(maxsize=256)(_resolve)
"""Remembers what the newest paths mean: nearly all requests have one of a few."""


def protocol_of(path: str) -> ProtocolName:
    """Whose form the errors of a path take, also where there is no such endpoint.

    Example:
        >>> protocol_of("/v2/nothing"), protocol_of("/models/flights/invocations"), protocol_of("/predict")
        ('oip', 'mlflow', 'native')
    """
    parts = path.strip("/").split("/")
    if parts[0] == "v2":
        return "oip"
    return "mlflow" if parts[-1] in _MLFLOW and (len(parts) == 1 or parts[0] == "models") else "native"


def _resolve_oip(path: str, parts: list[str]) -> Target:
    """What follows ``/v2``. ASGI has decoded the path already: a name is looked up as it stands."""
    if endpoint := _OIP_PLAIN.get(tuple(parts)):
        return Target(endpoint)
    if len(parts) > 1 and parts[0] == "models" and parts[1]:
        model, rest, version = parts[1], parts[2:], None
        if len(rest) > 1 and rest[0] == "versions" and rest[1]:
            version, rest = rest[1], rest[2:]
        if endpoint := _OIP_OF_MODEL.get(tuple(rest)):
            return Target(endpoint, model, version=version)
    remedy = "see /openapi.json; models are at /v2/models/MODEL[/versions/VERSION][/ready or /infer]"
    raise NotFoundError(f"no such path {path!r}", "path", remedy)
