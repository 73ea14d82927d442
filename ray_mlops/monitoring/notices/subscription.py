"""Who is told what: the targets of the configurations in force, and which notices each of them wants."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ray_mlops.config import NotificationsConfig, ProjectConfig, TargetConfig
from ray_mlops.ledger import Ledger, deployed_config
from ray_mlops.ledger.folds import ROUTES_COMMITTED
from ray_mlops.monitoring.notices.notice import SEVERITIES, Notice

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One target of one model's configuration."""

    model: str
    target: TargetConfig
    config: NotificationsConfig

    @property
    def prefix(self) -> str | None:
        """Begin of the streams that it follows; None follows all."""
        return None if self.target.models else f"{self.model}/"

    def follows(self, model: str) -> bool:
        """Whether events of a model are any of its business."""
        patterns = self.target.models or [self.model]
        return any(fnmatchcase(model, pattern) for pattern in patterns)

    def wants(self, notice: Notice) -> bool:
        """Whether a notice is sent. A target never hears of its own notices that were given up.

        Example:
            >>> from ray_mlops.config import WebhookTarget
            >>> target = WebhookTarget(name="a", url="http://h/", events=["rollout.*"], min_severity="warning")
            >>> subscription = Subscription("m", target, NotificationsConfig())
            >>> notices = [Notice("k", kind, "critical", "m", 0.0, "", "") for kind in ("rollout.invalid", "alarm")]
            >>> [subscription.wants(notice) for notice in notices]
            [True, False]
        """
        target = self.target
        is_severe = SEVERITIES.index(notice.severity) >= SEVERITIES.index(target.min_severity)
        is_asked_for = any(fnmatchcase(notice.kind, pattern) for pattern in target.events)
        is_own = notice.kind == "delivery.given_up" and notice.facts.get("target") == target.name
        return is_severe and is_asked_for and self.follows(notice.model) and not is_own


def read_subscriptions(ledger: Ledger, known: Mapping[str, ProjectConfig] | None = None) -> dict[str, ProjectConfig]:
    """Return the configuration in force of each model that is or was served.

    Args:
        ledger: The ledger.
        known: Configurations by model and hash (``MODEL@HASH``) that were read before.

    Returns:
        Configurations by ``MODEL@HASH``; ``subscriptions_of`` takes them apart. Of one that cannot be read the known
        one before it stays in force, if there is one.
    """
    found: dict[str, ProjectConfig] = {}
    for event in ledger.newest_by_stream(ROUTES_COMMITTED):
        model, content_hash = event.stream.removesuffix("/routes"), str(event.payload.get("config_hash") or "")
        name = f"{model}@{content_hash}"
        if known is not None and name in known:
            found[name] = known[name]
        elif content_hash:
            try:
                found[name] = ProjectConfig.model_validate(deployed_config(ledger, model, content_hash))
            except (ValueError, LookupError) as error:  # the others are told all the same
                logger.error("could not read whom to tell model=%s config=%s error=%s", model, content_hash, error)
                found |= {other: config for other, config in (known or {}).items() if config.name == model}
    return found


def subscriptions_of(configs: Mapping[str, ProjectConfig]) -> dict[tuple[str, str], Subscription]:
    """The targets of configurations, by model and name of the target."""
    return {
        (config.name, target.name): Subscription(config.name, target, config.notifications)
        for config in configs.values()
        for target in config.notifications.targets
    }
