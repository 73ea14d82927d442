"""Plain FastAPI with pydantic on uvicorn, one process: ``python fastapi_app.py PORT``."""

import sys

import uvicorn
from fastapi import FastAPI
from perceptron import FEATURES, Net  # beside this file; the peer's environment has no ray_mlops
from pydantic import BaseModel

app = FastAPI()
net = Net()


class Row(BaseModel):
    """One row."""

    x0: float
    x1: float
    x2: float
    x3: float
    x4: float
    x5: float
    x6: float
    x7: float
    x8: float
    x9: float
    x10: float
    x11: float


class Body(BaseModel):
    """A request."""

    instances: list[Row]


class Answer(BaseModel):
    """An answer."""

    predictions: list[float]


@app.post("/predict")
async def predict(body: Body) -> Answer:
    """Answer one request."""
    return Answer(predictions=net.predict([{name: getattr(row, name) for name in FEATURES} for row in body.instances]))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
