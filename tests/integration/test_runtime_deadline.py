"""Starvation on a real cluster ends in an error that says what was free."""

import time

import pytest
import ray

from ray_mlops.config import ClusterConfig, StoreConfig, TrainingConfig
from ray_mlops.errors import DeadlineError
from ray_mlops.runtime.cluster import available, connect, plan_for_cluster
from ray_mlops.runtime.deadline import deadline, get
from ray_mlops.runtime.facts import gather_cluster

pytestmark = pytest.mark.usefixtures("ray_cluster")


@ray.remote(num_cpus=1000)
def never_scheduled() -> None:
    pass


def test_get_of_what_never_runs_names_it_and_what_is_free() -> None:
    ref = never_scheduled.remote()
    with pytest.raises(DeadlineError, match=r"a huge task was not done within 0\.5 s; free now: .* of 4 CPU"):
        get(ref, "a huge task", 0.5)
    ray.cancel(ref)


def test_deadline_interrupts_rays_own_wait() -> None:
    ref = never_scheduled.remote()
    start = time.monotonic()
    with pytest.raises(DeadlineError, match=r"a huge task was not done .*of 4 CPU"), deadline("a huge task", 0.5):
        ray.get(ref)
    assert time.monotonic() - start < 15.0
    ray.cancel(ref)


def test_get_in_time_gives_the_value() -> None:
    assert get([ray.put(1), ray.put(2)], "two numbers", 10.0) == [1, 2]


def test_joined_process_stays_where_it_is(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = StoreConfig(root=str(tmp_path_factory.mktemp("store") / "new"))
    with connect((ClusterConfig(address="10.255.255.1:1"), store)) as connection:
        assert (connection.address, connection.owned) == (ray_cluster, False)
    assert ray.is_initialized()
    assert not store.local_root.exists()


def test_budget_of_the_cluster_leaves_data_its_cpu() -> None:
    total, _ = available()
    assert total["CPU"] == 4.0
    assert plan_for_cluster(TrainingConfig(), ClusterConfig()).training_cpus <= 3.0


def test_facts_of_the_cluster_come_from_a_worker() -> None:
    facts = gather_cluster()
    assert facts.worker_versions == facts.driver_versions
    assert (facts.num_nodes, facts.cpus) == (1, 4.0)
    assert "RAY_AUTH_TOKEN" not in facts.environment
