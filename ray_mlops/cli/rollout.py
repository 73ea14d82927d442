"""``rollout``: show, plan and operate rollouts, and run versions as shadows."""

import getpass
from collections.abc import Mapping
from typing import Any

import click

from ray_mlops.cli import print_json
from ray_mlops.cli.client import open_client, open_operator
from ray_mlops.cli.options import config_option, json_option
from ray_mlops.config import ProjectConfig

_reason = click.option("--reason", default="", help="Why; kept in the ledger.")


@click.group()
def rollout() -> None:
    """Move traffic from the champion to a candidate, on evidence.

    A version that passes the gate starts its rollout by itself (rollout.auto_start). It first scores logged rows in
    the shadow of the champion, then answers a rising share of traffic, and becomes champion once it has been shown to
    be good enough; evidence that it is worse takes it back at once. These commands look at that, and step in.

    \b
    What to use when:
      show                 look: state, guards, how the answers differ
      pause, resume        hold it where it is, and go on
      promote              it is good enough, and I answer for that
      rollback             it is bad: back to the champion; counts against it
      abort                never mind: back to the champion; counts for nothing
      shadow VERSION       watch any version on live rows, without risk

    All but 'show' and 'plan' need the operator's token, which lies in the store (tokens.json), and leave an event in
    the ledger with your name and, but for 'start', your --reason. Exit codes: 0 done, 1 refused or failed, 2 usage, 3
    refused by the gate.
    """


@rollout.command("show")
@config_option
@json_option
def rollout_show(config: ProjectConfig, as_json: bool) -> None:
    """State, weights, guards, disagreement and shadows of the running (or last) rollout."""
    from ray_mlops.orchestration.rollout_lines import rollout_lines  # after parsing

    with open_client(config) as client:
        _print(client.rollout(), as_json, rollout_lines)


@rollout.command("start")
@config_option
@click.argument("version")
@click.option("--override-gate", metavar="REASON", help="Start although the gate refused; kept in the ledger.")
@click.option("--skip-shadow", is_flag=True, help="Go straight to the first canary step.")
@json_option
def rollout_start(
    config: ProjectConfig, version: str, override_gate: str | None, skip_shadow: bool, as_json: bool
) -> None:
    """Put VERSION on trial.

    It must be registered, have passed the gate and, where gate.require_approval is on, be approved; otherwise the
    command ends with exit code 3. One rollout is under way at a time.
    """
    with open_operator(config) as client:
        options: dict[str, Any] = {"override_gate": override_gate, "skip_shadow": skip_shadow}
        _print(client.command("start", version=version, by=getpass.getuser(), **options), as_json)


@rollout.command("shadow")
@config_option
@click.argument("version")
@click.option("--stop", is_flag=True, help="Let the version be; its process ends.")
@_reason
@json_option
def rollout_shadow(config: ProjectConfig, version: str, stop: bool, reason: str, as_json: bool) -> None:
    """Let VERSION score logged rows beside the champion; it never answers anybody.

    Each row that the champion answers from now on is scored by VERSION too, off the request path and in a process of
    its own, and paired: how often and how far they differ, the rows that differ most, and, once labels land, whose
    loss is higher. See 'ray-mlops rollout show'. Up to rollout.max_shadows versions may do so at once, beside a
    rollout or without one. VERSION must be registered, but need not have passed the gate. One that crashes is stopped
    and costs nothing else.
    """
    with open_operator(config) as client:
        _print(client.command("shadow", version=version, stop=stop, reason=reason, by=getpass.getuser()), as_json)


def _command(verb: str) -> None:
    @rollout.command(verb, help=_HELP[verb])
    @config_option
    @_reason
    @json_option
    def operate(config: ProjectConfig, reason: str, as_json: bool) -> None:
        with open_operator(config) as client:
            _print(client.command(verb, reason=reason, by=getpass.getuser()), as_json)


_HELP = {
    "pause": """Hold the rollout where it is.

    The candidate keeps its share of traffic, its guards go on, and evidence against it still takes it back. Possible
    in the shadow and in a canary step; 'resume' goes on.
    """,
    "resume": """Go on with a paused rollout, in the step in which it was paused.

    One that paused because rollout.auto_promote is off needs 'promote': resumed, it only asks again.
    """,
    "promote": """Make the candidate champion now.

    The way to end a rollout with rollout.auto_promote: false, which pauses when all evidence is in ('show' says so). It
    works earlier too, without that evidence: then it is your decision, under your name. Evidence against the candidate
    comes first. The old champion stays loaded while the new one bakes.
    """,
    "rollback": """Take all traffic back to the champion, because the candidate is bad.

    Possible at any time before the rollout has ended, and after a promotion: then the champion before answers again,
    without a restart. It is a judgement: the rollout ends as rolled_back, which counts against the version wherever
    failed candidates are counted, and the version is not tried again by itself.
    """,
    "abort": """End the rollout at once, from any state, without judging the candidate.

    Traffic goes back to the champion as with 'rollback', even while a new champion bakes. But nothing is concluded: the
    rollout ends as aborted, in one move; no refusal is booked against the version, so that no cool-down of retraining
    grows and the registry keeps no judgement; and the same version may be started again ('rollout start', not by
    itself, or the next second would start it anew). Once a rollback has begun or a rollout has ended there is nothing
    to abort. Shadows stay.
    """,
}
for _verb in _HELP:
    _command(_verb)


@rollout.command("plan")
@config_option
@click.option("--requests-per-day", type=click.FloatRange(min=0), required=True, help="Traffic of the model.")
@click.option("--labels-per-day", type=click.FloatRange(min=0), required=True, help="Labels that come back.")
@click.option(
    "--error-rate", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of failed requests."
)
def rollout_plan(config: ProjectConfig, requests_per_day: float, labels_per_day: float, error_rate: float) -> None:
    """Say beforehand how many requests, labels and days each step needs."""
    from ray_mlops.orchestration.status import plan_lines  # after parsing
    from ray_mlops.serving.rollout.plan import plan_rollout

    steps = plan_rollout(
        config.rollout, requests_per_day=requests_per_day, labels_per_day=labels_per_day, error_rate=error_rate
    )
    click.echo("\n".join(plan_lines(steps)))


def _print(found: Mapping[str, Any], as_json: bool, lines: Any = None) -> None:
    """Print what the service says of the rollout: all of it, or in short."""
    if as_json:
        print_json(found)
        return
    from ray_mlops.orchestration.rollout_lines import headline  # after parsing

    click.echo("\n".join(lines(found) if lines is not None else headline(found)))
