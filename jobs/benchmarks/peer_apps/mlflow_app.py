"""Saves the network for ``mlflow models serve``: ``python mlflow_app.py DIRECTORY``."""

import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from perceptron import FEATURES, Net  # beside this file; the peer's environment has no ray_mlops


class Perceptron(mlflow.pyfunc.PythonModel):
    """One row in, one number out."""

    def load_context(self, context: Any) -> None:
        self._net = Net()

    def predict(self, context: Any, model_input: Any, params: Any = None) -> list[float]:
        columns = [list(model_input[name]) for name in FEATURES]  # a dictionary of arrays, or a data frame
        rows = [dict(zip(FEATURES, map(float, values), strict=True)) for values in zip(*columns, strict=True)]
        return self._net.predict(rows)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    mlflow.pyfunc.save_model(sys.argv[1], python_model=Perceptron(), code_paths=[str(here / "perceptron.py")])
