"""LitServe with one worker: ``python litserve_app.py PORT``."""

import sys
from typing import Any

import litserve
from perceptron import Net  # beside this file; the peer's environment has no ray_mlops


class Api(litserve.LitAPI):
    """One row in, one number out."""

    def setup(self, device: str) -> None:
        self._net = Net()

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request["instances"]

    def predict(self, rows: Any) -> list[float]:
        return self._net.predict(rows)

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        return {"predictions": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
