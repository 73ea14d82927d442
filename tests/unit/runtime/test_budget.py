"""A budget leaves Ray Data its CPU, or is refused with what was asked for and what is free."""

import pytest

from ray_mlops.config import ClusterConfig, TrainingConfig
from ray_mlops.errors import ResourceError
from ray_mlops.runtime.budget import DATA_CPUS, ResourceBudget, plan_budget, reserved_cpus


def plan(
    total: float, reserved: float = 0.0, gpus: float = 0.0, limit: float | None = None, **training: object
) -> ResourceBudget:
    config = TrainingConfig.model_validate(training)
    return plan_budget(total, gpus, reserved, config, ClusterConfig(training_cpus=limit))


@pytest.mark.parametrize("total", [1.3, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("workers", [1, 2, (1, 4), (2, 16)])
@pytest.mark.parametrize("reserved", [0.0, 0.1, 0.7])
def test_data_always_keeps_its_cpu(total: float, workers: object, reserved: float) -> None:
    try:
        budget = plan(total, reserved, num_workers=workers)
    except ResourceError:
        least = workers if isinstance(workers, int) else workers[0]  # type: ignore[index]
        assert total - reserved - DATA_CPUS < 0.1 * least + 0.01
        return
    assert budget.max_workers * budget.cpus_per_worker <= total - reserved - DATA_CPUS + 1e-9
    assert budget.concurrent_trials * budget.cpus_per_trial <= total - reserved - DATA_CPUS + 1e-9
    assert 0.1 <= budget.cpus_per_worker <= 1


def test_two_cpus_two_workers_share_what_is_left() -> None:
    budget = plan(2, reserved=0.3, num_workers=2)
    assert budget.num_workers == 2
    assert budget.cpus_per_worker == 0.35
    assert budget.concurrent_trials == 2
    assert budget.cpus_per_trial == 0.35


def test_four_cpus_one_worker_takes_one() -> None:
    budget = plan(4)
    assert (budget.cpus_per_worker, budget.training_cpus, budget.concurrent_trials) == (1.0, 3.0, 6)
    assert budget.resources_per_worker == {"CPU": 1.0}


def test_elastic_workers_stop_where_the_cpus_end() -> None:
    assert plan(4, num_workers=(1, 8)).num_workers == (1, 3)
    assert plan(64, num_workers=(2, 8)).num_workers == (2, 8)


def test_own_limit_is_kept_and_a_higher_one_refused() -> None:
    assert plan(8, limit=2.0).training_cpus == 2.0
    with pytest.raises(ResourceError, match=r"cluster.training_cpus: asked for 7.5 CPUs, 7 are free"):
        plan(8, limit=7.5)


def test_too_much_is_refused_with_asked_and_free() -> None:
    with pytest.raises(ResourceError, match=r"asked for 2 CPUs, 0.7 are free .*2 in the cluster, 0.3 held by others"):
        plan(2, reserved=0.3, num_workers=2, cpus_per_worker=1.0)
    with pytest.raises(ResourceError, match=r"0 are free"):
        plan(1)


def test_gpus_by_wish_and_by_what_is_there() -> None:
    assert not plan(8, gpus=1, num_workers=2).use_gpu
    assert plan(8, gpus=2, num_workers=2).resources_per_worker == {"CPU": 1.0, "GPU": 1.0}
    assert not plan(8, gpus=2, num_workers=2, use_gpu=False).use_gpu
    with pytest.raises(ResourceError, match="asked for 2 GPUs"):
        plan(8, gpus=1, num_workers=2, use_gpu=True)


def test_trials_share_a_gpu() -> None:
    budget = plan(4, gpus=1)
    assert budget.concurrent_trials * budget.gpus_per_trial <= 1
    assert budget.gpus_per_trial > 0


def test_reserved_cpus_is_never_negative() -> None:
    assert reserved_cpus(4, 3.7) == 0.3
    assert reserved_cpus(4, 4.0000001) == 0
