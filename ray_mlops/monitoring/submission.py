"""What the monitor asks of whoever submits its retraining jobs."""

from typing import Literal, Protocol

JobState = Literal["unknown", "running", "done", "died"]


class Submitter(Protocol):
    """Submits jobs under ids that make a repeat harmless; ``orchestration.submit`` implements it."""

    def submit(self, submission_id: str, decision_id: str) -> None:
        """Submit a job; an id that was submitted before is not submitted again."""

    def state(self, submission_id: str) -> JobState:
        """How a job stands."""
