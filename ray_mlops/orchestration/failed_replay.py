"""Requests that failed, sent again: which of them still fail."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx
import numpy as np
import orjson

from ray_mlops.serving.failed_requests import Failure
from ray_mlops.training.bundle import ModelBundle

_PATHS = {"oip_infer": "/v2/models/{model}/infer", "invocations": "/models/{model}/invocations"}
_NATIVE = "/models/{model}/predict"


class _UnsendableError(Exception):
    """A request that cannot be sent again, and why; never leaves this module."""


class Asker(Protocol):
    """Answers a request once more."""

    def ask(self, failure: Failure) -> str:
        """Return what goes wrong; nothing where it is answered.

        Raises:
            _UnsendableError: It cannot be asked; the report says why.
        """


@dataclass(frozen=True, slots=True)
class ReplayedFailure:
    """How one request went."""

    time: str
    request_id: str
    version: str
    was: str
    now: str
    """Empty where it is answered; else what goes wrong, or why it could not be sent."""


@dataclass(frozen=True, slots=True)
class FailedReplayReport:
    """How a replay of failed requests went."""

    answered: int
    failing: tuple[ReplayedFailure, ...]
    skipped: tuple[ReplayedFailure, ...]
    """Requests whose content was not kept, or whose version is not served."""


def replay_failures(failures: Iterable[Failure], asker: Asker) -> FailedReplayReport:
    """Ask each request again, in the order of arrival."""
    answered = 0
    failing: list[ReplayedFailure] = []
    skipped: list[ReplayedFailure] = []
    for failure in failures:
        try:
            now = asker.ask(failure)
        except _UnsendableError as reason:
            skipped.append(_replayed(failure, str(reason)))
            continue
        answered += not now
        if now:
            failing.append(_replayed(failure, now))
    return FailedReplayReport(answered, tuple(failing), tuple(skipped))


class ServiceAsker:
    """Asks a running service, for the version that failed: an operator's pin, so that it enters no statistics.

    Args:
        url: Where it listens.
        token: The operator's.
        version: Ask this version instead.
        transport: Instead of the network, for tests.
    """

    def __init__(
        self, url: str, token: str | None, version: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False, transport=transport)
        self._version = version

    def ask(self, failure: Failure) -> str:
        path, content, headers = _http_request(failure)
        version = self._version or failure.version
        if version:
            headers["x-model-version"] = version
        try:
            response = self._http.post(path, content=content, headers=headers)
        except httpx.TransportError as error:
            return f"no answer: {error}"
        if response.status_code == 404 and version:
            raise _UnsendableError(f"version {version} is not served; name another with --version")
        if response.status_code in (401, 403):
            raise _UnsendableError(f"the service refused the token: {response.text[:200]}")
        if not response.is_success:
            return f"HTTP {response.status_code}: {response.text[:500]}"
        who = response.headers.get("x-model-version", version)
        return "" if not version or who == version else f"version {version} failed, version {who} answered for it"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class BundleAsker:
    """Asks a bundle in this process.

    Args:
        bundle: Any version of the model.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        self._bundle = bundle
        self._columns = set(bundle.features.input_schema().names)

    def ask(self, failure: Failure) -> str:
        rows = [{name: value for name, value in row.items() if name in self._columns} for row in _rows(failure)]
        try:
            values = self._bundle.predict(rows).values
        except Exception as error:  # a model is foreign code, and its failure is what is looked for
            return f"{type(error).__name__}: {error}"
        return "" if np.isfinite(values).all() else "the prediction is not finite"


def _http_request(failure: Failure) -> tuple[str, bytes, dict[str, str]]:
    if failure.body is not None:
        path = _PATHS.get(failure.endpoint, _NATIVE).format(model=failure.model)
        return path, failure.body, dict(failure.headers)
    content = orjson.dumps({"instances": _rows(failure)})
    return _NATIVE.format(model=failure.model), content, {"content-type": "application/json"}


def _rows(failure: Failure) -> list[Mapping[str, Any]]:
    if failure.instances is not None:
        return list(failure.instances)
    if failure.body is None:
        raise _UnsendableError("its content was not kept: too large, or the log redacts a column")
    try:
        return list(orjson.loads(failure.body)["instances"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise _UnsendableError("it holds no rows that a model could be asked for") from error


def _replayed(failure: Failure, now: str) -> ReplayedFailure:
    time = datetime.fromtimestamp(failure.time_us / 1e6, UTC).isoformat(timespec="seconds")
    return ReplayedFailure(time, failure.request_id, failure.version, failure.error, now)


def report_lines(report: FailedReplayReport) -> list[str]:
    """The report for people."""
    lines = [f"{report.answered} answered now, {len(report.failing)} still fail, {len(report.skipped)} not sent"]
    for title, items in (("fails", report.failing), ("not sent", report.skipped)):
        lines += [f"  {title} {i.time} {i.request_id or '-'} version {i.version or '-'}: {i.now}" for i in items]
    return lines
