"""What a version in the shadow and the champion say about the same rows, as operators see it."""

import asyncio
from typing import Any

from ray_mlops.config import RolloutConfig
from ray_mlops.serving.rollout.disagreement import DisagreementReport, PairedLossReport, report_paired_loss
from ray_mlops.serving.rollout.evidence import FloatArray
from ray_mlops.serving.rollout.shadow import BundleFacts
from ray_mlops.serving.rollout.shadow_log import ShadowLog


class ShadowView:
    """Writes the document; computes an interval anew only when there are new pairs, since it takes some 50 ms.

    Args:
        config: Gives the level of the interval and the margin.
    """

    def __init__(self, config: RolloutConfig) -> None:
        self._alpha, self._margin = config.guards.alpha, config.shadow.loss_margin
        self._known: tuple[int, float, str] | None = None
        self._loss = PairedLossReport()

    async def to_json(
        self,
        log: ShadowLog | None,
        facts: tuple[BundleFacts, BundleFacts] | None,
        paired: FloatArray,
        problem: str = "",
    ) -> dict[str, Any]:
        """Return ``champion``, ``disagreement`` and ``loss``.

        Args:
            log: What was scored; None before the first row.
            facts: Of the champion and of the other version; None while they are not known.
            paired: Differences of losses [n].
            problem: Why there are none, if so.
        """
        report = DisagreementReport()
        if log is not None and facts is not None:
            report = await asyncio.to_thread(log.disagreement, facts)
        key = (len(paired), float(paired.sum()), problem)
        if key != self._known:
            self._loss = await asyncio.to_thread(report_paired_loss, paired, self._alpha, self._margin, problem)
            self._known = key
        return {
            "champion": None if log is None else log.champion,
            "is_full": log is not None and log.is_full,
            "disagreement": report.to_json(),
            "loss": self._loss.to_json(),
        }
