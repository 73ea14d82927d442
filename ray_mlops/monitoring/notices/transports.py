"""The transport of each kind of target."""

from ray_mlops.config import EmailTarget, SlackTarget, TargetConfig
from ray_mlops.monitoring.notices.delivery import Transport
from ray_mlops.monitoring.notices.http_post import place_of
from ray_mlops.monitoring.notices.mail import MailTransport
from ray_mlops.monitoring.notices.webhook import SlackTransport, WebhookTransport


def build_transport(target: TargetConfig, console_url: str = "") -> Transport:
    """Return what delivers to a target.

    Args:
        target: The target.
        console_url: The service's address, for links.
    """
    if isinstance(target, EmailTarget):
        return MailTransport(target, console_url)
    if isinstance(target, SlackTarget):
        return SlackTransport(target, console_url)
    return WebhookTransport(target, console_url)


def address_of(target: TargetConfig) -> str:
    """Where a target is, as it may be shown.

    Example:
        >>> from ray_mlops.config import WebhookTarget
        >>> address_of(WebhookTarget(name="ops", url="https://ops.example.org/in?token=1"))
        'webhook ops.example.org'
    """
    if isinstance(target, EmailTarget):
        return f"email {', '.join(target.recipients)} by {target.host}:{target.port}"
    return f"{target.type} {place_of(target.url) if target.url else f'${target.url_env}'}"
