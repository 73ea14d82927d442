"""A Ray with the GPUs of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_with_gpu() -> Iterator[None]:
    """A private local Ray with eight logical CPUs and all GPUs."""
    import ray

    root = str(Path(__file__).resolve().parents[2])
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=512 * 1024 * 1024,
        namespace="ray_mlops",
        logging_level="WARNING",
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    yield
    ray.shutdown()
