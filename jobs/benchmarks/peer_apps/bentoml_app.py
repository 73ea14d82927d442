"""BentoML with one worker: ``bentoml serve bentoml_app:Perceptron --port PORT``."""

from typing import Any

import bentoml
from perceptron import Net  # beside this file; the peer's environment has no ray_mlops


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Perceptron:
    """One row in, one number out."""

    def __init__(self) -> None:
        self._net = Net()

    @bentoml.api
    def predict(self, instances: list[dict[str, float]]) -> dict[str, Any]:
        """Answer one request."""
        return {"predictions": self._net.predict(instances)}
