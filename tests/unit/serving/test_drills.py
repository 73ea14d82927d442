"""What a rollout asks of a version's fire drills."""

from typing import Any

import pytest
from pydantic import ValidationError

from ray_mlops.config import DrillConfig, ProjectConfig, build_config
from ray_mlops.errors import GateRefusedError, LedgerError
from ray_mlops.ledger import LedgerEvent
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.rollout.drills import DRILL_FINISHED, DrilledFault, drill_payload, read_drill, unmet_power
from ray_mlops.serving.rollout.record import ModelRecord

NEEDS = DrillConfig(required_power={"unit_change": 0.75}, within_windows=5, repeats=2)


def config(drill: DrillConfig = NEEDS, **gate: Any) -> ProjectConfig:
    data = {"source": {"path": "x"}, "task": "binary", "target": "y"}
    monitoring = {"drill": drill.model_dump(mode="json")}
    return build_config({"name": "m", "data": data, "monitoring": monitoring, "gate": gate}, {})


class History:
    """A record, and the shortest ways to add to it."""

    def __init__(self, settings: ProjectConfig) -> None:
        self.record, self.seq = ModelRecord("m"), 0
        self.add("m/config", "config.deployed", {"config": settings.model_dump(mode="json")})
        self.add("m/routes", "routes.committed", ModelRoutes("m", 0, Arm("1", "b1", "h1")).to_json())
        for version in ("1", "2"):
            self.add("m/versions", "version.registered", {"version": version, "gate": {"passed": True}})

    def add(self, stream: str, kind: str, payload: dict[str, Any]) -> None:
        self.seq += 1
        self.record.apply([LedgerEvent(self.seq, stream, self.seq, 0.0, None, kind, f"k{self.seq}", payload, "", "")])

    def drill(self, version: str, windows: int = 10, **delays: list[int | None]) -> None:
        self.add("m/drill", DRILL_FINISHED, drill_payload(version, windows, delays))


def test_nothing_is_required_unless_configured() -> None:
    history = History(config(DrillConfig()))
    assert history.record.standing("2") == ("passed", "")
    assert history.record.next_candidate() == "2"


def test_version_waits_for_its_drill_and_then_goes_by_itself() -> None:
    history = History(config())
    assert history.record.standing("2") == ("waiting", "version 2 has not been drilled for unit_change")
    assert history.record.next_candidate() is None
    with pytest.raises(GateRefusedError, match="ray-mlops drill --version 2"):
        history.record.check_request("2")
    history.record.check_request("2", is_overridden=True)
    history.drill("1", unit_change=[1, 1, 1, 1])
    assert history.record.next_candidate() is None, "that was another version"
    history.drill("2", unit_change=[1, 5, 2, None])
    assert history.record.next_candidate() == "2"
    history.record.check_request("2")


def test_version_that_is_watched_too_badly_is_refused_with_the_figures() -> None:
    history = History(config())
    history.drill("2", unit_change=[1, 6, 2, None])
    standing, reason = history.record.standing("2")
    assert standing == "refused"
    assert "unit_change noticed in 50% of 4 runs within 5 windows, required 75%" in reason
    with pytest.raises(GateRefusedError, match="override the gate"):
        history.record.check_request("2")
    assert history.record.next_candidate() is None


def test_newest_drill_of_each_fault_counts() -> None:
    history = History(config())
    history.drill("2", unit_change=[None, None])
    history.drill("2", nulls=[None])
    assert history.record.standing("2")[0] == "refused"
    history.drill("2", unit_change=[1, 1])
    history.drill("2", nulls=[None])
    assert history.record.standing("2")[0] == "passed"


def test_drill_that_was_too_short_proves_no_weakness() -> None:
    history = History(config())
    history.drill("2", windows=3, unit_change=[1, None])
    standing, reason = history.record.standing("2")
    assert (standing, "3 windows only" in reason) == ("waiting", True)


def test_one_lucky_run_proves_nothing() -> None:
    history = History(config())
    history.drill("2", unit_change=[1])
    standing, reason = history.record.standing("2")
    assert standing == "waiting"
    assert "drilled 1 times only for unit_change" in reason


def test_approval_is_asked_for_first() -> None:
    history = History(config(require_approval=True))
    with pytest.raises(GateRefusedError, match="ray-mlops approve 2"):
        history.record.check_request("2")
    history.add("m/versions", "version.approved", {"version": "2"})
    with pytest.raises(GateRefusedError, match="ray-mlops drill --version 2"):
        history.record.check_request("2")


def test_power_counts_windows_up_to_the_limit() -> None:
    fault = DrilledFault(10, (1, 5, 6, None))
    assert [fault.power(n) for n in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert DrilledFault(10, ()).power(10) == 0.0
    assert unmet_power(DrillConfig(required_power={"unit_change": 1.0}), "2", {"unit_change": fault}) is not None


def test_drill_of_a_newer_release_is_refused() -> None:
    with pytest.raises(LedgerError, match="schema_version 9"):
        read_drill({**drill_payload("1", 3, {}), "schema_version": 9})


def test_required_power_must_be_a_share() -> None:
    with pytest.raises(ValidationError, match="shares of runs"):
        DrillConfig(required_power={"nulls": 1.5})
    with pytest.raises(ValidationError, match="unit_change"):
        DrillConfig.model_validate({"required_power": {"gremlins": 0.5}})
