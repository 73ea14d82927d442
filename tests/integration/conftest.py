"""One Ray for all integration tests of a run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private local Ray with four logical CPUs; yields its address."""
    import ray

    root = str(Path(__file__).resolve().parents[2])
    context = ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 * 1024 * 1024,
        namespace="ray_mlops",
        logging_level="WARNING",
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    yield context.address_info["address"]
    ray.shutdown()
