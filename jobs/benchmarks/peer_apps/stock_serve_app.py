"""Ray Serve as installed, default proxy and FastAPI ingress: ``python stock_serve_app.py PORT``."""

import logging
import signal
import sys

import ray
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

from jobs.benchmarks.peer_apps.perceptron import Net

app = FastAPI()


class Body(BaseModel):
    """A request."""

    instances: list[dict[str, float]]


@serve.ingress(app)
class Stock:
    """One row in, one number out."""

    def __init__(self) -> None:
        self._net = Net()

    @app.post("/predict")
    async def predict(self, body: Body) -> dict[str, list[float]]:
        """Answer one request."""
        return {"predictions": self._net.predict(body.instances)}


if __name__ == "__main__":
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deployment = serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=128)(Stock)
    serve.run(deployment.bind(), name="stock")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()
