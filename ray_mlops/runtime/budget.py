"""Who may hold how many CPUs. Pure: starvation on Ray is silent, so it is ruled out by arithmetic beforehand.

Ray Data asks for one whole CPU for listing files, whatever ``num_cpus`` its readers have. Where actors and
training hold so much that less is left, a read waits for ever, without an error.
"""

import math
from dataclasses import dataclass

from ray_mlops.config import ClusterConfig, TrainingConfig
from ray_mlops.errors import ResourceError

DATA_CPUS = 1.0
"""Whole CPUs that stay free for Ray Data at every moment."""
TRIAL_CPUS = 0.5
"""CPUs of one trial of the search, a plain function with one thread."""
MIN_WORKER_CPUS = 0.1
_GRAIN = 100


@dataclass(frozen=True, slots=True)
class ResourceBudget:
    """What training may ask for on one cluster."""

    num_workers: int | tuple[int, int]
    """Workers of the trainer, or least and most of an elastic one."""
    cpus_per_worker: float
    use_gpu: bool
    concurrent_trials: int
    """Trials of the search that run at a time."""
    cpus_per_trial: float
    gpus_per_trial: float
    training_cpus: float
    """CPUs that training, or the search, may hold at once."""
    data_cpus: float
    """CPUs that stay free for Ray Data, at least."""
    reason: str
    """How the numbers came about, for the log."""

    @property
    def max_workers(self) -> int:
        """The most workers there can be."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """As ``ray.train.ScalingConfig`` takes it."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1.0} if self.use_gpu else {})


def plan_budget(
    total_cpus: float, total_gpus: float, reserved: float, training: TrainingConfig, cluster: ClusterConfig
) -> ResourceBudget:
    """Divide a cluster's logical CPUs between training and Ray Data.

    Args:
        total_cpus: Logical CPUs of the cluster.
        total_gpus: Its GPUs.
        reserved: CPUs that others hold (replicas, above all) and will not give back.
        training: Number of workers, CPUs of each, use of GPUs, as the user wants them.
        cluster: ``training_cpus`` is the user's own limit.

    Raises:
        ResourceError: What was asked for does not leave Ray Data one whole CPU, or there are too few GPUs.
            Says what was asked for and what is free.

    Example:
        >>> budget = plan_budget(4, 0, reserved=0.3, training=TrainingConfig(num_workers=2), cluster=ClusterConfig())
        >>> budget.num_workers, budget.cpus_per_worker, budget.concurrent_trials, budget.data_cpus
        (2, 1.0, 5, 1.0)
    """
    free = total_cpus - reserved
    limit = _floor(free - DATA_CPUS)
    if cluster.training_cpus is not None:
        if cluster.training_cpus > limit:
            raise _refusal("cluster.training_cpus", cluster.training_cpus, limit, total_cpus, reserved)
        limit = cluster.training_cpus
    least, most = (training.num_workers,) * 2 if isinstance(training.num_workers, int) else training.num_workers
    each = training.cpus_per_worker or min(1.0, _floor(limit / least))
    if each < MIN_WORKER_CPUS or least * each > limit + 1e-9:
        wanted = least * (training.cpus_per_worker or MIN_WORKER_CPUS)
        raise _refusal("training.num_workers", wanted, limit, total_cpus, reserved)
    most = max(least, min(most, math.floor(limit / each + 1e-9)))
    use_gpu = _decide_gpu(training, least, total_gpus)
    per_trial = min(TRIAL_CPUS, each)
    trials = max(1, math.floor(limit / per_trial + 1e-9))
    gpus_per_trial = min(1.0, math.floor(total_gpus * _GRAIN / trials) / _GRAIN) if use_gpu else 0.0
    return ResourceBudget(
        num_workers=least if isinstance(training.num_workers, int) else (least, most),
        cpus_per_worker=each,
        use_gpu=use_gpu,
        concurrent_trials=trials,
        cpus_per_trial=per_trial,
        gpus_per_trial=gpus_per_trial,
        training_cpus=limit,
        data_cpus=DATA_CPUS,
        reason=(
            f"{total_cpus:g} CPUs, {reserved:g} reserved, {DATA_CPUS:g} for data, {limit:g} for training: "
            f"{most} x {each:g} workers or {trials} x {per_trial:g} trials, {'GPU' if use_gpu else 'no GPU'}"
        ),
    )


def reserved_cpus(total: float, available: float) -> float:
    """CPUs that are held now. Ask before training starts; nothing of one's own should hold any then."""
    return max(0.0, round(total - available, 2))


def _decide_gpu(training: TrainingConfig, workers: int, total_gpus: float) -> bool:
    if training.use_gpu is True and total_gpus < workers:
        problem = f"asked for {workers} GPUs, one for each worker, the cluster has {total_gpus:g}"
        raise ResourceError(problem, "training.use_gpu", "set it to 'auto' or false, or use fewer workers")
    return training.use_gpu is True or (training.use_gpu == "auto" and total_gpus >= workers)


def _refusal(where: str, asked: float, limit: float, total: float, reserved: float) -> ResourceError:
    problem = (
        f"asked for {asked:g} CPUs, {max(limit, 0.0):g} are free for training "
        f"({total:g} in the cluster, {reserved:g} held by others, {DATA_CPUS:g} kept for Ray Data)"
    )
    return ResourceError(problem, where, "ask for less, or start the cluster with more logical CPUs (cluster.num_cpus)")


def _floor(value: float) -> float:
    return math.floor(value * _GRAIN + 1e-6) / _GRAIN
