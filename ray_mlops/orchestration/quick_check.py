"""A few predictions of a version, here and now: what the service would say, without one."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import FeatureError, RayMLOpsError, RequestError
from ray_mlops.orchestration.versions import find_version, load_bundle
from ray_mlops.serving.http.parse import InputColumns, build_request, check_columns, check_count
from ray_mlops.serving.predictor import Predictor


def predict_rows(config: ProjectConfig, rows: Sequence[Mapping[str, Any]], version: str) -> dict[str, Any]:
    """Predict rows with a version, by the code that the service runs.

    Args:
        config: Says which model, and which column is the event time.
        rows: JSON-like.
        version: A version, an alias or a bundle's path.

    Returns:
        ``predictions``, ``model`` and ``version``, as ``POST /predict`` gives them.

    Raises:
        ModelNotFoundError: There is no such version.
        RequestError: A column is unknown, missing or of the wrong type; names row and column.
        RayMLOpsError: What the model says is no prediction.
    """
    name, address = find_version(config, version)
    predictor = Predictor(load_bundle(address, config))
    columns = InputColumns(predictor.required, frozenset(predictor.schema.names), config.data.event_time)
    given = [dict(row) for row in rows]
    check_count(len(given), config.serving.max_rows, "rows")
    check_columns(given, columns, "rows")
    request = build_request(given, columns, {}, where="rows")
    try:
        prediction = predictor.predict_rows(request.rows)
    except FeatureError as error:
        raise RequestError(error.problem, f"rows: {error.where}", error.remedy) from error
    if fault := predictor.fault(prediction, len(given)):
        raise RayMLOpsError(f"the prediction {fault}", f"version {name}")
    return {"predictions": prediction.to_json(), "model": config.name, "version": name}
