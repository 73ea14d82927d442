"""Submit retraining jobs through Ray's Jobs API, exactly once for each attempt."""

import logging
import sys
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from ray_mlops.config import StoreConfig
from ray_mlops.errors import ClusterError
from ray_mlops.monitoring.submission import JobState
from ray_mlops.runtime.jobs import job_environment

logger = logging.getLogger(__name__)

_STATES: dict[JobStatus, JobState] = {
    JobStatus.PENDING: "running",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "done",
    JobStatus.STOPPED: "died",
    JobStatus.FAILED: "died",
}


class JobSubmitter:
    """Implements ``monitoring.submission.Submitter`` with Ray's Jobs API.

    Args:
        store: Handed to the job in its environment.
        address: Address of the Jobs API or GCS; None means the cluster this process belongs to.
    """

    def __init__(self, store: StoreConfig, address: str | None = None) -> None:
        self._store = store
        self._address = address
        self._client: JobSubmissionClient | None = None

    def submit(self, submission_id: str, decision_id: str) -> None:
        """Submit a job; an id that was submitted before is not submitted again.

        Raises:
            ClusterError: The Jobs API refused it.
        """
        try:
            self._jobs().submit_job(
                entrypoint=f"{sys.executable} -m ray_mlops.cli retrain --decision {decision_id}",
                submission_id=submission_id,
                runtime_env=self._environment(),
                metadata={"decision": decision_id},
            )
        except RuntimeError as error:  # a duplicate is an HTTP 500, which the client raises as RuntimeError
            if self.state(submission_id) == "unknown":
                raise ClusterError(f"job was not accepted: {error}", submission_id, "see 'ray-mlops doctor'") from error
            logger.info("found submitted job id=%s", submission_id)
            return
        logger.info("submitted job id=%s decision=%s", submission_id, decision_id)

    def state(self, submission_id: str) -> JobState:
        """How a job stands; `unknown` when it was never submitted here."""
        try:
            return _STATES[self._jobs().get_job_status(submission_id)]
        except RuntimeError as error:
            if "does not exist" in str(error):
                return "unknown"
            raise ClusterError(f"job status cannot be read: {error}", submission_id) from error

    def logs(self, submission_id: str) -> str:
        """What a job printed."""
        return str(self._jobs().get_job_logs(submission_id))

    def _jobs(self) -> JobSubmissionClient:
        if self._client is None:
            self._client = JobSubmissionClient(self._address or ray.get_runtime_context().gcs_address)
        return self._client

    def _environment(self) -> dict[str, Any]:
        """The runtime environment of the process that submits, with the store added."""
        inherited = dict(ray.get_runtime_context().runtime_env) if ray.is_initialized() else {}
        kept = {
            name: inherited[name] for name in ("working_dir", "py_modules", "pip", "uv", "conda") if name in inherited
        }
        variables = {**inherited.get("env_vars", {}), **job_environment(self._store)}
        return {**kept, "env_vars": variables}


def submitter(store: StoreConfig) -> JobSubmitter:
    """Factory for the monitor actor (an import path in its start arguments)."""
    return JobSubmitter(store)
