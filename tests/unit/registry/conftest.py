"""One MLflow database for all tests of the registry: creating its tables takes a second."""

import itertools
from pathlib import Path

import pytest

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def mlflow_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def tracking_uri(mlflow_directory: Path) -> str:
    return f"sqlite:///{mlflow_directory}/mlflow.db"


@pytest.fixture
def model() -> str:
    """A name of its own for each test."""
    return f"model-{next(_numbers)}"
