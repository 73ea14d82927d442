"""What a retraining job records of its end."""

from pathlib import Path
from typing import Any

import pytest

from ray_mlops.config import StoreConfig, build_config, config_hash
from ray_mlops.errors import DataError, RayMLOpsError, TrainingError
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.policy import RetrainDecision
from ray_mlops.orchestration import retrain


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(TrainingError("40 labelled rows, a recalibration needs 100"), "refused"), (DataError("no rows"), "failed")],
)
def test_rows_that_give_no_candidate_lead_to_the_next_rung_and_what_broke_does_not(
    error: RayMLOpsError, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StoreConfig(root=str(tmp_path))
    ledger = Ledger.open(store)
    config = build_config({"name": "m", "data": {"source": {"path": "x"}, "task": "binary", "target": "y"}}, {})
    key = config_hash(config)
    deployed = {"config": config.model_dump(mode="json"), "hash": key}
    ledger.append("m/config", "config.deployed", f"m/config/{key}", deployed)
    decision = RetrainDecision("retrain-m-1", "m", 9, 0, 5, 8, "recalibrate", "loss", "1", key, "")
    ledger.append("m/retrain", "retrain.decided", decision.decision_id, decision.to_json())

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(retrain, "_retrain", fail)
    with pytest.raises(type(error)):
        retrain.run_decision(store, decision.decision_id)
    (event,) = ledger.read("m/retrain", kind="retrain.finished")
    assert (event.payload["outcome"], event.payload["version"]) == (outcome, None)
