"""What a person does about each kind of notice, with the exact commands."""

from collections.abc import Mapping

_ROLLOUT = "`ray-mlops rollout show` lists every guard with its evidence."

_TO_DO: Mapping[str, str] = {
    "alarm": (
        "Find out whether the world has changed or a source has. `ray-mlops monitor` shows each column's evidence and"
        " distances; `ray-mlops monitor diagnose` says what the loss owes to which column and which slices moved;"
        " `ray-mlops explain PREDICTION_ID` shows what stands behind one answer. If the change is real and"
        " nothing is under way, run `ray-mlops retrain`. The alarm ends when another version becomes champion."
    ),
    "breach": (
        "Mend the source of the column; the alarm clears by itself when the values are sound again. If they are as"
        " they should be, run `ray-mlops monitor ack {alarm}`: retraining is blocked until one of the two happens."
    ),
    "breach.cleared": "Nothing. Rows of the broken windows are in the prediction log: check what was answered on them.",
    "alarm.over": "Nothing: another version is champion, and is measured against a reference of its own.",
    "rollout.paused": (
        f"It waits for a person. {_ROLLOUT} Then run `ray-mlops rollout promote`, `ray-mlops rollout resume` or"
        " `ray-mlops rollout rollback`."
    ),
    "rollout.rolling_back": (
        f"The champion answers everything; nobody has to act at once. {_ROLLOUT} Do not start the same version again"
        " before the cause is known."
    ),
    "rollout.aborted": (
        "The champion answers everything, and nothing was concluded about the candidate. `ray-mlops rollout start"
        " {version}` puts it on trial again."
    ),
    "rollout.invalid": (
        "The traffic was not split as asked for, so nothing was concluded. Look for a router, a cache or retries that"
        " treat callers differently, then run `ray-mlops rollout start {version}`."
    ),
    "rollout.promoted": "Nothing. The version before stays warm while `ray-mlops rollout rollback` can undo it.",
    "rollout.baking": "Nothing. `ray-mlops rollout rollback` goes back to the champion before, without a restart.",
    "approval.wanted": (
        "Read its report (`ray-mlops versions` names it). Then run `ray-mlops approve {version} --reason WHY`; without"
        " that it takes no traffic."
    ),
    "gate.refused": (
        "It takes no traffic. `ray-mlops versions` lists the checks; its report shows metrics, slices and curves. An"
        " operator may still run `ray-mlops rollout start {version} --override-gate WHY`, which is recorded."
    ),
    "retrain.failed": (
        "Read the job's log in Ray's dashboard under its id. When the cause is mended, run `ray-mlops retrain`: until"
        " then the cool-down is doubled by each failure in a row."
    ),
    "retrain.refused": "Nothing: the champion stays, and the cool-down is doubled. `ray-mlops versions` says why.",
    "retrain.withheld": "Nothing, if the reason is right. `ray-mlops retrain` asks for one by hand.",
    "retrain.scheduled": "Nothing: its candidate has to pass the gate and a rollout before it answers anybody.",
    "delivery.given_up": (
        "Run `ray-mlops notify test --target {target}` and mend what it names; `ray-mlops notify show` lists what was"
        " not delivered, and `ray-mlops ledger show` has every event."
    ),
    "test": "Nothing: somebody ran `ray-mlops notify test`.",
}
_AS = {
    "alarm.reminder": "alarm",
    "breach.reminder": "breach",
}


def what_to_do(kind: str, **values: str) -> str | None:
    """Return what to do about a kind of notice; None where there is nothing to say.

    Args:
        kind: The kind.
        values: What the commands name: alarm, version, target, page.

    Example:
        >>> what_to_do("retrain.withheld")
        'Nothing, if the reason is right. `ray-mlops retrain` asks for one by hand.'
    """
    text = _TO_DO.get(_AS.get(kind, kind))
    return None if text is None else text.format_map(_Named(values))


def every_text() -> Mapping[str, str]:
    """All texts by kind, with their placeholders."""
    return dict(_TO_DO)


class _Named(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key.upper()
