"""Folds over the ledger."""

from pathlib import Path
from typing import Any

import pytest

from ray_mlops.errors import ModelNotFoundError
from ray_mlops.ledger import (
    Ledger,
    aliases_in_force,
    approvals,
    current_routes,
    deployed_config,
    fold,
    registered_versions,
)
from ray_mlops.serving.protocol import Arm, ModelRoutes, RouteTable


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield ledger
    ledger.close()


def record(ledger: Ledger, stream: str, kind: str, payload: dict[str, Any]) -> int:
    return ledger.append(stream, kind, f"{stream}-{len(ledger.read())}", payload).seq


def commit_routes(ledger: Ledger, model: str, version: int) -> int:
    routes = ModelRoutes(model, version, Arm(str(version), "uri", "hash"))
    return record(ledger, f"{model}/routes", "routes.committed", routes.to_json())


def test_fold_applies_events_in_order(ledger: Ledger) -> None:
    for letter in "abc":
        record(ledger, "m/x", "typed", {"letter": letter})
    assert fold(ledger.read("m/x"), "", lambda text, event: text + event.payload["letter"]) == "abc"
    assert fold([], "nothing", lambda text, event: text) == "nothing"


def test_deployed_config_is_the_newest_or_the_one_asked_for(ledger: Ledger) -> None:
    for value in ("old", "new"):
        payload = {"config": {"name": value}, "hash": value}
        ledger.append("m/config", "config.deployed", f"m/config/{value}", payload)
    assert deployed_config(ledger, "m") == {"name": "new"}
    assert deployed_config(ledger, "m", "old") == {"name": "old"}


@pytest.mark.parametrize("config_hash", [None, "other"])
def test_deployed_config_unknown_is_not_found(ledger: Ledger, config_hash: str | None) -> None:
    with pytest.raises(ModelNotFoundError, match="was deployed"):
        deployed_config(ledger, "m", config_hash)


def test_current_routes_are_the_newest_of_each_model(ledger: Ledger) -> None:
    assert RouteTable.from_json(current_routes(ledger)) == RouteTable()
    commit_routes(ledger, "a", 1)
    commit_routes(ledger, "b", 1)
    newest = commit_routes(ledger, "a", 2)
    record(ledger, "a/rollout", "rollout.moved", {})
    table = RouteTable.from_json(current_routes(ledger))
    assert table.version == newest == 3
    assert {model: routes.version for model, routes in table.models.items()} == {"a": 2, "b": 1}
    assert table.models["a"].champion.version == "2"


def test_current_routes_withdrawn_model_is_gone_until_committed_again(ledger: Ledger) -> None:
    commit_routes(ledger, "a", 1)
    commit_routes(ledger, "b", 1)
    withdrawn = record(ledger, "a/routes", "routes.withdrawn", {"model": "a"})
    assert current_routes(ledger)["version"] == withdrawn
    assert list(current_routes(ledger)["models"]) == ["b"]
    again = commit_routes(ledger, "a", 3)
    assert current_routes(ledger)["version"] == again
    assert sorted(current_routes(ledger)["models"]) == ["a", "b"]


def test_registered_versions_keep_their_order(ledger: Ledger) -> None:
    for version in ("1", "2", "10"):
        record(ledger, "m/versions", "version.registered", {"version": version, "bundle": f"b{version}"})
    record(ledger, "m/versions", "version.refused", {"bundle_hash": "x"})
    record(ledger, "other/versions", "version.registered", {"version": "3"})
    versions = registered_versions(ledger, "m")
    assert list(versions) == ["1", "2", "10"]
    assert versions["10"]["bundle"] == "b10"


def test_approvals_are_by_version(ledger: Ledger) -> None:
    record(ledger, "m/versions", "version.approved", {"version": "1", "by": "ann", "reason": "first"})
    record(ledger, "m/versions", "version.approved", {"version": "1", "by": "bob", "reason": "again"})
    assert {version: payload["by"] for version, payload in approvals(ledger, "m").items()} == {"1": "bob"}


def test_aliases_in_force_are_the_newest(ledger: Ledger) -> None:
    for alias, version in (("champion", "1"), ("candidate", "2"), ("champion", "2"), ("candidate", None)):
        record(ledger, "m/versions", "alias.set", {"alias": alias, "version": version})
    assert aliases_in_force(ledger, "m") == {"champion": "2"}
