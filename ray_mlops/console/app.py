"""The console as an ASGI application, mounted by the gateway at ``/console``."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from ray_mlops.config import StoreConfig
from ray_mlops.console.address import MODEL_PAGES, Address, Links, Visit, resolve
from ray_mlops.console.render import Screen, render
from ray_mlops.console.sources import ConsoleData, StoreData
from ray_mlops.console.views import VIEWS
from ray_mlops.errors import ModelNotFoundError, RayMLOpsError, RequestError
from ray_mlops.ledger import Ledger
from ray_mlops.orchestration.explain import explainer
from ray_mlops.runtime.files import Files
from ray_mlops.serving.http.asgi import (
    TEXT_TYPE,
    AsgiApp,
    Receive,
    Response,
    Scope,
    Send,
    run_lifespan,
    send_response,
)

HTML_TYPE = b"text/html; charset=utf-8"
_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_MAX_FIELDS = 20
_THREADS = 4
"""Threads that read and draw: people looking at pages never take more of a replica than this."""


class ConsoleApp:
    """Answers GET with pages.

    Args:
        data: The facts.
        threads: Where pages are drawn.
    """

    def __init__(self, data: ConsoleData, threads: Executor) -> None:
        self._data, self._threads = data, threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["method"] not in ("GET", "HEAD"):
            body = b"the console only reads; to operate use 'ray-mlops rollout' or POST /rollout/COMMAND\n"
            await send_response(send, Response(405, body, TEXT_TYPE, ((b"allow", b"GET, HEAD"),)))
        else:
            await send_response(send, await self._respond(scope))

    async def _respond(self, scope: Scope) -> Response:
        base, path = scope.get("root_path", "").rstrip("/"), str(scope["path"])
        below = path.removeprefix(base)
        address, query = Address(""), dict[str, str]()
        models: tuple[str, ...] = ()
        try:
            query = _parse_query(scope.get("query_string", b""))
            models = await self._data.models()
            address = _with_model(resolve(below), models)
            visit = Visit(models, address.model or "", address.argument, query)
            screen = await VIEWS[address.page](self._data, visit)
        except RayMLOpsError as error:
            screen = _problem(error)
        links = Links(base, query.pop("refresh", "") == "off")
        frame = {
            "link": links.to,
            "is_still": links.is_still,
            "turned": links.turned().to(*filter(None, below.split("/")), **query),
            "models": models,
            "page": address.page,
            "model": address.model or "",
            "model_pages": MODEL_PAGES,
        }
        draw = partial(render, screen, frame)
        body = await asyncio.get_running_loop().run_in_executor(self._threads, draw)
        return Response(screen.status, body, HTML_TYPE, _HEADERS)


def console(store: StoreConfig) -> AsgiApp:
    """Factory named in ``serving.protocol.Hooks``."""
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="console")
    data = StoreData(Ledger.open(store), explainer(store), threads, Files(store.root_uri))
    return ConsoleApp(data, threads)


def _parse_query(text: bytes) -> dict[str, str]:
    try:
        fields = parse_qs(text.decode("latin-1"), max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise RequestError(f"the query cannot be read: {error}", "console") from error
    return {name: values[-1] for name, values in fields.items()}


def _with_model(address: Address, models: tuple[str, ...]) -> Address:
    """Check the model, or take the only one.

    Raises:
        ModelNotFoundError: There is no such model, or it must be named.
    """
    if address.page not in MODEL_PAGES and address.model is None:
        return address
    if address.model is None and len(models) == 1:
        return Address(address.page, models[0], address.argument)
    if address.model is None:
        raise ModelNotFoundError("the path must name a model", "console")
    if address.model not in models:
        raise ModelNotFoundError(f"there is no model {address.model!r}", "console")
    return address


def _problem(error: RayMLOpsError) -> Screen:
    is_missing = isinstance(error, ModelNotFoundError)
    status = 404 if is_missing else error.status if isinstance(error, RequestError) else 503
    title = {404: "Not found", 503: "Not available"}.get(status, "Not understood")
    content: Mapping[str, Any] = {"problem": error.problem, "remedy": error.remedy, "status": status}
    return Screen("problem", title, lambda: content, is_live=status == 503, status=status)
