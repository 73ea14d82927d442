"""The process of a version on trial: what may be asked for it, and where that is refused."""

from typing import Any

import pytest

from ray_mlops.config import CandidateConfig, RuntimeEnvConfig, build_config, json_schema
from ray_mlops.errors import ConfigError

SMALL: dict[str, Any] = {"name": "m", "data": {"source": {"path": "a.csv"}, "task": "binary", "target": "y"}}
CANDIDATE, ENVIRONMENT = "rollout.candidate", "rollout.candidate.runtime_env"


@pytest.mark.parametrize(
    ("dotted", "value", "text"),
    [
        (f"{CANDIDATE}.num_replicas", 0, rf"{CANDIDATE}.num_replicas"),
        (f"{CANDIDATE}.gpus", 1.5, rf"{CANDIDATE}.gpus: more than one GPU must be a whole number.*1.5"),
        (f"{CANDIDATE}.gpus", -0.5, rf"{CANDIDATE}.gpus: .*greater than or equal to 0"),
        (f"{CANDIDATE}.timeout", 3, rf"{CANDIDATE}.timeout: unknown key.*did you mean 'timeout_s'"),
        (f"{ENVIRONMENT}.env_vars", {"RAY_ADDRESS": "x"}, rf"{ENVIRONMENT}.env_vars: RAY_ADDRESS is Ray's to set"),
        (f"{ENVIRONMENT}.env_vars", {"PYTHONPATH": "/x"}, "use py_modules"),
        (f"{ENVIRONMENT}.env_vars", {"a=b": "x"}, "no name of an environment variable"),
        (f"{ENVIRONMENT}.env_vars", {"A": 1}, rf"{ENVIRONMENT}.env_vars.A"),
        (f"{ENVIRONMENT}.pip", ["torch==2.9", " "], rf"{ENVIRONMENT}.pip: expected one requirement an entry"),
        (f"{ENVIRONMENT}.py_modules", ["src"], rf"{ENVIRONMENT}.py_modules: expected an absolute path or a URI.*'src'"),
        (f"{ENVIRONMENT}.working_dir", "src", rf"{ENVIRONMENT}.working_dir: expected an absolute path"),
        (ENVIRONMENT, {"pip": ["a"], "uv": ["b"]}, f"{ENVIRONMENT}: pip and uv exclude each other"),
        (f"{ENVIRONMENT}.container", {}, "unknown key 'container'"),
    ],
)
def test_wrong_process_is_refused_at_its_place(dotted: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_config(SMALL, {dotted: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_replicas", 2), ("cpus", 1.0), ("gpus", 0.5), ("memory_mb", 100), ("runtime_env", {"env_vars": {"A": "1"}})],
)
def test_candidate_inside_the_gateway_has_no_process_of_its_own(name: str, value: Any) -> None:
    config = {f"{CANDIDATE}.{name}": value, "rollout.isolation": "in_replica"}
    with pytest.raises(ConfigError, match=rf"rollout: candidate.{name} needs 'isolation: isolated'"):
        build_config(SMALL, config)


def test_candidate_inside_the_gateway_may_have_limits() -> None:
    limits = {f"{CANDIDATE}.max_ongoing_requests": 3, f"{CANDIDATE}.timeout_s": 1.0}
    config = build_config(SMALL, {**limits, "rollout.isolation": "in_replica"})
    again = build_config(config.model_dump(mode="json"), {})
    assert again.rollout.candidate.max_ongoing_requests == 3


def test_champion_outside_needs_candidates_outside() -> None:
    with pytest.raises(ConfigError, match=r"set rollout.isolation: isolated"):
        build_config(SMALL, {"serving.placement": "deployment", "rollout.isolation": "in_replica"})


def test_environment_reaches_ray_in_its_own_words() -> None:
    environment = RuntimeEnvConfig(
        env_vars={"A": "1"}, pip=["torch==2.9.0"], py_modules=["/srv/a", "s3://b/c.zip"], working_dir="/srv/w"
    )
    assert environment.to_ray() == {
        "env_vars": {"A": "1"},
        "pip": ["torch==2.9.0"],
        "py_modules": ["local:///srv/a", "s3://b/c.zip"],
        "working_dir": "local:///srv/w",
        "config": {"setup_timeout_seconds": 600},
    }


def test_schema_documents_every_field() -> None:
    sections = json_schema()["$defs"]
    assert "description" in sections["ServingConfig"]["properties"]["placement"]
    for section in (CandidateConfig, RuntimeEnvConfig):
        properties = sections[section.__name__]["properties"]
        assert set(properties) == set(section.model_fields)
        assert all("description" in field for field in properties.values())
