"""What the ledger says about one model, read bit by bit: only events that are new are fetched."""

from ray_mlops.ledger import Ledger, LedgerEvent
from ray_mlops.monitoring.policy import RetrainHistory, fold_history
from ray_mlops.serving.rollout.state import RolloutState, fold_rollout


class ModelRecord:
    """Follows the streams of one model that bear on its retraining.

    Args:
        ledger: The ledger.
        model: The model's name.
    """

    def __init__(self, ledger: Ledger, model: str) -> None:
        self._ledger = ledger
        self._model = model
        self._retraining: list[LedgerEvent] = []
        self._rollout: RolloutState | None = None
        self._rollout_seq = 0
        self.history = self.read_history()

    def read_history(self) -> RetrainHistory:
        """The history of retraining up to now; kept in ``history``."""
        seen = self._retraining[-1].seq if self._retraining else 0
        fresh = self._ledger.read(f"{self._model}/retrain", after_seq=seen)
        if fresh or not self._retraining:
            self._retraining += fresh
            self.history = fold_history(self._retraining)
        return self.history

    def read_rollout(self) -> RolloutState | None:
        """The newest rollout as it stands now; None before the first."""
        fresh = self._ledger.read(f"{self._model}/rollout", after_seq=self._rollout_seq)
        if fresh:
            self._rollout_seq = fresh[-1].seq
            self._rollout = fold_rollout(fresh, self._rollout)
        return self._rollout

    def is_rollout_active(self) -> bool:
        """Whether a candidate is on trial now."""
        rollout = self.read_rollout()
        return rollout is not None and not rollout.is_over
