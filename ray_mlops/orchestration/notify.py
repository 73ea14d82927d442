"""Whom a model tells, how that goes, and a sample to try it with. Does not join Ray."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray_mlops.config import ProjectConfig, TargetConfig
from ray_mlops.errors import NotFoundError
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.notices.delivery import Transport
from ray_mlops.monitoring.notices.notice import Notice, iso_seconds, paragraphs
from ray_mlops.monitoring.notices.outbox import TargetState, load_state
from ray_mlops.monitoring.notices.rendering import render
from ray_mlops.monitoring.notices.runbook import what_to_do
from ray_mlops.monitoring.notices.standing import Standing
from ray_mlops.monitoring.notices.subscription import Subscription, read_subscriptions, subscriptions_of
from ray_mlops.monitoring.notices.transports import address_of, build_transport
from ray_mlops.runtime.addresses import recorded_url
from ray_mlops.runtime.files import Files


def send_samples(
    config: ProjectConfig,
    names: Sequence[str] = (),
    *,
    transport: Callable[[TargetConfig, str], Transport] = build_transport,
) -> list[dict[str, Any]]:
    """Send a sample to targets, once each, with the secrets of this process; returns what each said.

    Args:
        config: Names the targets.
        names: Only these; empty means all.
        transport: Makes what delivers to a target.

    Raises:
        NotFoundError: The configuration has no such target, or none at all.
    """
    targets = {target.name: target for target in config.notifications.targets}
    missing = [name for name in names if name not in targets]
    if missing or not targets:
        problem = f"no target {missing[0]!r}" if missing else "no target is configured"
        raise NotFoundError(problem, "notifications.targets", f"configured: {', '.join(targets) or 'none'}")
    url = config.notifications.console_url or recorded_url(config.store)
    found = []
    for name in names or targets:
        attempt = transport(targets[name], url).send(sample_notice(config.name))
        found.append(
            {
                "target": name,
                "address": address_of(targets[name]),
                "outcome": attempt.outcome,
                "detail": attempt.detail,
            }
        )
    return found


def sample_notice(model: str) -> Notice:
    """A notice that says that it is one of no consequence."""
    text = paragraphs(what="this is a test; nothing has happened.", to_do=what_to_do("test"))
    name = f"{model}/test/{uuid.uuid4().hex[:12]}"
    return Notice(name, "test", "info", model, time.time(), f"{model}: a test of notifications", text)


def describe_targets(config: ProjectConfig) -> list[dict[str, Any]]:
    """Every target of a configuration and of the deployed ones: where it is, what it got, what waits for it."""
    ledger, files = Ledger.open(config.store), Files(config.store.root_uri)
    in_force = subscriptions_of(read_subscriptions(ledger))
    mine = subscriptions_of({config.name: config})
    return [
        _describe(name, {**mine, **in_force}[name], name in in_force, ledger, files)
        for name in sorted({*mine, *in_force})
    ]


def target_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The targets for people."""
    lines = []
    for each in found:
        state = "in force" if each["in_force"] else "not in force yet: run 'ray-mlops serve'"
        lines.append(f"{each['model']} {each['target']}: {each['address']} ({state})")
        if each["cursor"] is None:
            continue
        counts = ", ".join(f"{each[name]} {name.replace('_', ' ')}" for name in ("delivered", "given_up", "pending"))
        lines.append(f"  {counts}; up to event {each['cursor']}")
        if each["problem"]:
            lines.append(f"  failed {each['failures']} times in a row: {each['problem']}")
        lines += [f"  {iso_seconds(entry['time'])} {entry['outcome']:9} {entry['title']}" for entry in each["recent"]]
    return lines or ["no targets; add some under 'notifications.targets'"]


def _describe(
    name: tuple[str, str], subscription: Subscription, is_in_force: bool, ledger: Ledger, files: Files
) -> dict[str, Any]:
    state = load_state(files, *name)
    model, target = name
    return {
        "model": model,
        "target": target,
        "address": address_of(subscription.target),
        "events": list(subscription.target.events),
        "in_force": is_in_force,
        "cursor": None if state is None else state.cursor,
        "delivered": 0 if state is None else state.delivered,
        "given_up": 0 if state is None else state.given_up,
        "failures": 0 if state is None else state.failures,
        "problem": "" if state is None else state.problem,
        "pending": 0 if state is None else _pending(ledger, subscription, state),
        "recent": [] if state is None else state.recent,
    }


def _pending(ledger: Ledger, subscription: Subscription, state: TargetState) -> int:
    """How many notices are recorded and not dealt with."""
    standing, count = Standing.read(ledger, state.cursor), 0
    for event in ledger.read(prefix=subscription.prefix, after_seq=state.cursor):
        notice = render(event, standing)
        count += notice is not None and subscription.wants(notice)
        standing.apply([event])
    return count
