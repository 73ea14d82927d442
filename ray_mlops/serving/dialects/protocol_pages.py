"""What the other protocols ask besides predictions: is the server alive, is a model ready, what does it look like."""

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ray_mlops.errors import NotFoundError
from ray_mlops.serving.dialects.oip_columns import describe_model
from ray_mlops.serving.http.asgi import TEXT_TYPE, Response, json_response
from ray_mlops.serving.loaded import LoadedModel, LoadedTable
from ray_mlops.serving.parts import Request

SERVER_NAME = "ray-mlops"
EXTENSIONS = ("binary_tensor_data",)


class ProtocolPages:
    """Handlers of the Open Inference Protocol's and MLflow's endpoints that change nothing."""

    def __init__(self) -> None:
        self._server = describe_server()
        self._mlflow = installed_version("mlflow")

    def handlers(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """The handler of each endpoint."""
        return {
            "oip_server": self._show_server,
            "oip_live": self._live,
            "oip_ready": self._ready,
            "oip_models": self._models,
            "oip_model": self._model,
            "oip_model_ready": self._model_ready,
            "ping": self._ping,
            "mlflow_version": self._mlflow_version,
        }

    async def _show_server(self, request: Request) -> Response:
        return json_response(self._server)

    async def _live(self, request: Request) -> Response:
        return json_response({"live": True, "ready": request.loaded.is_ready})

    async def _ready(self, request: Request) -> Response:
        is_ready = request.loaded.is_ready
        return json_response({"live": True, "ready": is_ready}, 200 if is_ready else 503)

    async def _models(self, request: Request) -> Response:
        return json_response({"models": sorted(request.loaded.models)})

    async def _model(self, request: Request) -> Response:
        target = request.target
        loaded = find_version(request.loaded, target.model, target.version)
        return json_response(describe_model(loaded, target.version))

    async def _model_ready(self, request: Request) -> Response:
        loaded = find_version(request.loaded, request.target.model, request.target.version)
        return json_response({"name": loaded.routes.model, "ready": True})

    async def _ping(self, request: Request) -> Response:
        return Response(200 if request.loaded.is_ready else 503, b"\n", TEXT_TYPE)

    async def _mlflow_version(self, request: Request) -> Response:
        return Response(200, self._mlflow.encode(), TEXT_TYPE)


def repository_index(table: LoadedTable) -> list[dict[str, str]]:
    """Every version that can be asked for here, as Triton's repository extension lists them."""
    return [
        {"name": name, "version": version, "state": "READY", "reason": ""}
        for name, loaded in sorted(table.models.items())
        for version in loaded.versions()
    ]


def describe_server() -> dict[str, Any]:
    """Name, version and extensions of this server."""
    return {"name": SERVER_NAME, "version": installed_version(SERVER_NAME), "extensions": list(EXTENSIONS)}


def find_version(table: LoadedTable, model: str | None, wanted: str | None) -> LoadedModel:
    """A model by name, if the version is one that it can be asked for here.

    Raises:
        NotFoundError: There is no such model, or no such version of it.
    """
    loaded = table.find(model)
    if wanted is not None and wanted not in loaded.versions():
        known = ", ".join(loaded.versions())
        raise NotFoundError(f"version {wanted!r} of {model!r} is not loaded", "path", f"loaded: {known}")
    return loaded


def installed_version(package: str) -> str:
    """The installed version of a package; ``unknown`` where it runs from files that were never installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
