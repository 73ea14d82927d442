"""MLflow's own scoring client, unmodified, and the forms of its protocol as its documentation sends them."""

from typing import Any

import pandas as pd
import requests
from checks import EXPECTED, HOST, LABELS, MODEL, ROWS, TOKEN, URL, VERSION, check, finish, raises
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

client = ScoringServerClient(*HOST.split(":"))
FRAME = pd.DataFrame(ROWS)


def agrees(records: list[dict[str, Any]]) -> bool:
    pairs = [(record["prediction"], record["probability"]) for record in records]
    return pairs == list(zip(LABELS, EXPECTED, strict=True))


def post(content: Any, path: str = "/invocations", **headers: str) -> requests.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(content, str):
        return requests.post(URL + path, data=content.encode(), headers={"content-type": "text/csv", **headers})
    return requests.post(URL + path, json=content, headers=headers)


check("ping")(client.ping)
check("version")(client.get_version)
check("wait until ready")(lambda: client.wait_server_ready(timeout=5))


@check("data frame, with missing values")
def _() -> bool:
    frame = client.invoke(FRAME).get_predictions("dataframe")
    return list(frame["prediction"]) == LABELS and list(frame["probability"]) == EXPECTED


check("data frame with params")(lambda: client.invoke(FRAME, params={"routing_key": "user-1"})["ids"])
check("inputs by column")(
    lambda: agrees(post({"inputs": {name: [row[name] for row in ROWS] for name in ROWS[0]}}).json()["predictions"])
)
check("dataframe_split")(
    lambda: agrees(
        post({"dataframe_split": {"columns": list(ROWS[0]), "data": [list(row.values()) for row in ROWS]}}).json()[
            "predictions"
        ]
    )
)
for form in ("dataframe_records", "instances", "inputs"):
    check(form)(lambda name=form: agrees(post({name: ROWS}).json()["predictions"]))
check("CSV as pandas writes it")(lambda: agrees(post(FRAME.to_csv(index=False)).json()["predictions"]))
check("path of the model")(lambda: post({"instances": ROWS}, f"/models/{MODEL}/invocations").status_code == 200)
check("who answered is in the headers")(lambda: post({"instances": ROWS}).headers["x-model-version"] == VERSION)
check("operator's token pins a version")(
    lambda: post({"instances": ROWS}, x_model_version=VERSION, authorization=f"Bearer {TOKEN}").status_code == 200
)
check("error by the client")(lambda: raises(lambda: client.invoke(FRAME[["distance"]]), "400", "is missing"))


@check("error in MLflow's form")
def _() -> bool:
    response = post({"instances": ROWS, "inputs": ROWS})
    return (response.status_code, response.json()["error_code"]) == (400, "BAD_REQUEST") and "exactly one of" in (
        response.json()["message"]
    )


finish("mlflow")
