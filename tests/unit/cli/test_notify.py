"""``notify`` and the files that ``monitor`` prints, with a real receiver; and that texts name real commands."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from ray_mlops import cli
from ray_mlops.config import load_config
from ray_mlops.ledger import Ledger
from ray_mlops.monitoring.notices.outbox import TargetState, save_state
from ray_mlops.monitoring.notices.runbook import every_text
from ray_mlops.monitoring.prometheus import read_rules
from ray_mlops.runtime.files import Files

Outcome = tuple[int, str, str]
_COMMAND = re.compile(r"[`']ray-mlops ([^`']*)[`']")


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """What is posted to a server, and its port."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield bodies, server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., Outcome]:
    """Runs one command in an empty directory; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_MLOPS_CONFIG", raising=False)

    def call(*arguments: str) -> Outcome:
        code: Any = 0
        try:
            cli.main(arguments)
        except SystemExit as left:
            code = left.code
        printed = capsys.readouterr()
        return int(code or 0), printed.out, printed.err

    return call


def write_config(*targets: dict[str, Any]) -> None:
    data = {"source": {"path": "a.csv"}, "task": "binary", "target": "y"}
    content = {"name": "m", "data": data, "notifications": {"targets": list(targets)}}
    Path("ray-mlops.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def hook(name: str, port: int, **more: Any) -> dict[str, Any]:
    return {"type": "webhook", "name": name, "url": f"http://127.0.0.1:{port}/in", **more}


def test_notify_test_sends_a_sample_and_says_what_each_target_said(run: Any, receiver: Any) -> None:
    bodies, port = receiver
    write_config(hook("ops", port), hook("gone", 1), hook("signed", port, secret_env="NO_SUCH_SECRET"))
    code, out, _ = run("notify", "test")
    assert code == 1
    ops, gone, signed = out.splitlines()
    assert re.match(rf"ops +delivered +webhook 127\.0\.0\.1:{port}: HTTP 204", ops)
    assert re.match(r"gone +failed .*127\.0\.0\.1:1 does not answer", gone)
    assert "NO_SUCH_SECRET is not set" in signed
    assert [(body["kind"], body["model"]) for body in bodies] == [("test", "m")]


def test_notify_test_of_one_target_succeeds(run: Any, receiver: Any) -> None:
    bodies, port = receiver
    write_config(hook("ops", port), hook("gone", 1))
    code, out, _ = run("notify", "test", "--target", "ops", "--json")
    assert code == 0
    assert [each["outcome"] for each in json.loads(out)] == ["delivered"]
    assert len(bodies) == 1


def test_notify_test_of_an_unknown_target_names_the_known(run: Any) -> None:
    write_config(hook("ops", 1))
    code, _, err = run("notify", "test", "--target", "opps")
    assert code == 1
    assert "no target 'opps'; configured: ops" in err
    write_config()
    assert "no target is configured" in run("notify", "test")[2]


def test_notify_show_tells_place_deliveries_and_what_waits(run: Any) -> None:
    write_config(hook("ops", 1, events=["approval.given"]))
    config = load_config("ray-mlops.yaml")
    ledger = Ledger.open(config.store)
    for number in (1, 2, 3):
        ledger.append("m/versions", "version.approved", f"k{number}", {"version": str(number), "by": "ann"})
    ledger.append("m/versions", "alias.set", "k4", {"alias": "champion", "version": "1"})
    state = TargetState("m", "ops", 1, 0.0, delivered=1, failures=4, problem="HTTP 503")
    state.book({"outcome": "delivered", "title": "m: version 1 was approved", "time": 0.0}, 5)
    save_state(Files(config.store.root_uri), state)
    code, out, _ = run("notify", "show")
    assert code == 0
    assert out.splitlines() == [
        "m ops: webhook 127.0.0.1:1 (not in force yet: run 'ray-mlops serve')",
        "  1 delivered, 0 given up, 2 pending; up to event 1",
        "  failed 4 times in a row: HTTP 503",
        "  1970-01-01T00:00:00.000+00:00 delivered m: version 1 was approved",
    ]
    found = json.loads(run("notify", "show", "--json")[1])
    assert (found[0]["cursor"], found[0]["pending"], found[0]["in_force"]) == (1, 2, False)


def test_notify_show_without_targets_says_how_to_add_some(run: Any) -> None:
    write_config()
    assert "notifications.targets" in run("notify", "show")[1]


def test_monitor_prints_rules_and_dashboard_without_a_configuration(run: Any) -> None:
    code, out, _ = run("monitor", "rules")
    assert code == 0
    assert yaml.safe_load(out)["groups"]
    code, out, _ = run("monitor", "dashboard")
    assert code == 0
    assert json.loads(out)["title"] == "ray-mlops"


def commands_of(text: str) -> list[list[str]]:
    return [words.split() for words in _COMMAND.findall(text)]


def test_texts_and_rules_name_commands_that_exist() -> None:
    texts = [*every_text().values(), read_rules()]
    commands = [words for text in texts for words in commands_of(text)]
    assert len(commands) > 30
    for words in commands:
        command: click.Command = cli.cli
        context = click.Context(cli.cli)
        while words and isinstance(command, click.Group):
            found = command.get_command(context, words[0])
            if found is None:
                break
            command, words = found, words[1:]
        assert command is not cli.cli, words
        options = {name for parameter in command.params for name in parameter.opts}
        arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
        assert {word for word in words if word.startswith("--")} <= options, words
        given = [word for word in words if not word.startswith("--")]
        assert len(given) >= sum(argument.required for argument in arguments), (command.name, words)
        if isinstance(command, click.Group):
            assert not words, (command.name, words)
