"""Commands of a rollout: what they send, what they print, and how they end when it goes wrong."""

import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_mlops import cli
from ray_mlops.errors import GateRefusedError, ModelNotFoundError, RolloutError

CONFIG = {"name": "m", "data": {"source": {"path": "x.parquet"}, "task": "binary", "target": "y"}}
DIFFER = {
    "rows": 300,
    "decisions_differ": 0.04,
    "mean_difference": 0.012,
    "mean_by_class": {},
    "quantiles": {"0.5": 0.01, "1": 0.4},
    "most": [
        {"prediction_id": "p9", "champion": 0.2, "other": 0.6, "difference": 0.4, "inputs": {"carrier": "UA"}},
        {"prediction_id": "p3", "champion": 0.2, "other": 0.5, "difference": 0.3, "inputs": None},
    ],
}
LOSS = {"pairs": 200, "mean": 0.01, "low": -0.01, "high": 0.03, "level": 0.95, "margin": 0.01, "problem": ""}
COMPARED = {"champion": "1", "disagreement": DIFFER, "loss": LOSS}
GUARD = {"name": "errors", "question": "regression", "verdict": "pass", "detail": "0 of 9", "dry_run": True}
DOCUMENT = {
    "rollout_id": "m-v2",
    "version": "2",
    "state": "paused",
    "paused_from": "canary[2]",
    "weight": 0.5,
    "reason": "all evidence is in; waits for a person to promote",
    "allowed": ["resume", "promote", "rollback", "abort"],
    "guards": [GUARD],
    "compared": COMPARED,
    "shadows": [
        {"version": "3", "state": "running", "detail": "", "by": "ann", **COMPARED},
        {"version": "4", "state": "failed", "detail": "failed: exit code 9", "by": "ann"},
    ],
    "history": [{"time": 0.0, "from": "shadow", "to": "canary[0]", "reason": "loss"}],
}
Outcome = tuple[int, str, str]


class FakeClient:
    """Stands for the running service."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    error: Exception | None = None

    def __init__(self, url: str, model: str, token: str | None) -> None:
        pass

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rollout(self) -> dict[str, Any]:
        return DOCUMENT

    def command(self, verb: str, **arguments: Any) -> dict[str, Any]:
        if FakeClient.error is not None:
            raise FakeClient.error
        FakeClient.calls.append((verb, arguments))
        return DOCUMENT


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command where the service was started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_MLOPS_CONFIG", raising=False)
    monkeypatch.setattr("ray_mlops.cli.client.Client", FakeClient)
    FakeClient.calls, FakeClient.error = [], None
    (tmp_path / "ray-mlops.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / ".ray_mlops").mkdir()
    (tmp_path / ".ray_mlops" / "tokens.json").write_text('{"operate": "secret"}')

    def call(*arguments: str) -> Outcome:
        code: Any = 0
        try:
            cli.main(["rollout", *arguments])
        except SystemExit as left:
            code = left.code
        printed = capsys.readouterr()
        return int(code or 0), printed.out, printed.err

    return call


def test_commands_send_who_and_why(run: Callable[..., Outcome]) -> None:
    for verb in ("pause", "resume", "promote", "rollback", "abort"):
        code, out, _ = run(verb, "--reason", "lunch")
        assert code == 0
        assert "m-v2: paused (paused in canary[2]), candidate weight 50%" in out
    me = {"by": getpass.getuser()}
    assert FakeClient.calls == [
        (verb, {"reason": "lunch", **me}) for verb in ("pause", "resume", "promote", "rollback", "abort")
    ]
    run("start", "2", "--skip-shadow")
    run("shadow", "3")
    run("shadow", "3", "--stop", "--reason", "enough")
    assert FakeClient.calls[5:] == [
        ("start", {"version": "2", "override_gate": None, "skip_shadow": True, **me}),
        ("shadow", {"version": "3", "stop": False, "reason": "", **me}),
        ("shadow", {"version": "3", "stop": True, "reason": "enough", **me}),
    ]


def test_show_tells_what_may_be_done_how_answers_differ_and_of_every_shadow(run: Callable[..., Outcome]) -> None:
    code, out, _ = run("show")
    assert code == 0
    for text in (
        "you may: resume, promote, rollback, abort",
        "errors         regression      0 of 9 (dry run: shown, never acts)",
        "300 rows; decisions differ on 4.00%; mean difference +0.0120; apart p50 0.0100, p100 0.4000",
        "loss +0.0100 95% [-0.0100, +0.0300] on 200 pairs (margin 0.01)",
        "p9: champion 0.2000, other 0.6000  carrier=UA",
        "p3: champion 0.2000, other 0.5000  its inputs are not in the log any more",
        "version 3 running, by ann",
        "version 4 failed (failed: exit code 9), by ann",
        "shadow -> canary[0]: loss",
    ):
        assert text in out
    assert json.loads(run("show", "--json")[1]) == DOCUMENT
    assert json.loads(run("abort", "--json")[1]) == DOCUMENT


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RolloutError("cannot resume rollout m-v2, which is shadow", "model 'm'", "allowed now: pause"), 1),
        (ModelNotFoundError("no version 9 is registered", "model 'm'", "see 'ray-mlops versions'"), 1),
        (GateRefusedError("auc is too low", "model 'm'", "give a reason to override the gate"), 3),
    ],
)
def test_refusals_are_one_line_with_their_exit_code(run: Callable[..., Outcome], error: Exception, code: int) -> None:
    FakeClient.error = error
    found, out, err = run("start", "9")
    assert (found, out) == (code, "")
    assert err == f"error: {error}\n"


def test_operating_without_the_token_says_where_it_is(run: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / ".ray_mlops" / "tokens.json").unlink()
    code, _, err = run("abort")
    assert code == 1
    assert "there is no operator's token" in err
    assert "run this where the service was started" in err
    assert FakeClient.calls == []
    assert run("show")[0] == 0, "reading needs none"


TEACHES = {
    "show": "disagreement and shadows",
    "start": "have passed the gate",
    "shadow": "off the request path",
    "pause": "keeps its share of traffic",
    "resume": "in which it was paused",
    "promote": "rollout.auto_promote",
    "rollback": "because the candidate is bad",
    "abort": "without judging",
    "plan": "how many requests, labels and days",
}


def test_help_of_every_command_teaches(run: Callable[..., Outcome]) -> None:
    overview = run("--help")[1]
    assert "rollback             it is bad" in overview
    for verb in ("show", "start", "shadow", "pause", "resume", "promote", "rollback", "abort", "plan"):
        code, out, _ = run(verb, "--help")
        assert code == 0
        assert verb in overview
        assert TEACHES[verb] in " ".join(out.split())
    assert "without judging" in run("abort", "--help")[1]
    assert run("shadow")[0] == 2
    assert run("nothing")[0] == 2
