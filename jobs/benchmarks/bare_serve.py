"""The same network on Ray Serve with the same settings and nothing else: what our own work is measured against."""

from typing import Any

import orjson
from ray import serve
from ray.serve import Application
from starlette.requests import Request

from jobs.benchmarks.peer_apps.perceptron import Net
from ray_mlops.serving.http.asgi import AsgiApp, Receive, Response, Scope, Send, read_body, run_lifespan, send_response


class Bare:
    """As Serve's documentation writes a deployment."""

    def __init__(self) -> None:
        self._net = Net()

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        content = await request.json()
        return {"predictions": self._net.predict(content["instances"])}


class BareAsgi:
    """The least that Serve can do: raw ASGI and a fast JSON library."""

    async def __serve_build_asgi_app__(self) -> AsgiApp:
        return _App()


class _App:
    """An ASGI application; a class, because a bound method would pass for the older ASGI 2."""

    def __init__(self) -> None:
        self._net = Net()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send)
            return
        body = await read_body({}, receive, 1_000_000)
        answer = self._net.predict(orjson.loads(body)["instances"])
        await send_response(send, Response(200, orjson.dumps({"predictions": answer})))


def bare_application(cpus: float, places: int) -> Application:
    """A plain deployment in one replica."""
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": cpus}, "max_ongoing_requests": places}
    return serve.deployment(name="Bare", **options)(Bare).bind()


def bare_asgi_application(cpus: float, places: int) -> Application:
    """Raw ASGI in one replica."""
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": cpus}, "max_ongoing_requests": places}
    return serve.deployment(name="BareAsgi", **options)(serve.ingress()(BareAsgi)).bind()
