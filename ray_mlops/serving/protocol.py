"""What serving is made of, and what it asks of the layers above it.

Records that cross a process are frozen dataclasses with ``to_json`` and ``from_json``. The protocols at
the end are implemented above (monitoring, orchestration, console) and handed down as import paths,
because a replica must be able to rebuild them wherever it starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa

from ray_mlops.serving.slicing import SliceColumn

NAMESPACE = "ray_mlops"
"""Ray namespace of the detached actors."""
ROUTES_ACTOR, ROLLOUTS_ACTOR, MONITOR_ACTOR = "routes", "rollouts", "monitor"
GATEWAY_APP = "gateway"

ArmName = Literal["champion", "candidate"]
Outcome = Literal["ok", "error", "timeout", "invalid", "crashed", "overloaded", "unavailable"]
"""How the chosen arm did. Anything but `ok` on a candidate was answered by the champion instead: it raised, hung,
gave no valid prediction, its process was gone, it held all the requests it may hold, or it had failed so often in a
row that it was not asked."""


Placement = Literal["in_replica", "isolated"]
"""Inside the gateway, or in an application of its own."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One version that can answer."""

    version: str
    bundle: str
    """Address of its bundle."""
    bundle_hash: str
    placement: Placement = "in_replica"
    weight: float = 1.0
    """Share of traffic, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class ModelRoutes:
    """How one model's traffic is routed: a pure value, committed to the ledger before it is published."""

    model: str
    version: int
    """Route version: the version of the event in stream ``{model}/routes``; starts at 1, rises by 1."""
    champion: Arm
    candidate: Arm | None = None
    previous: Arm | None = None
    shadows: tuple[Arm, ...] = ()
    """Versions that score logged rows, in processes of their own, and never answer. Replicas do not load them."""
    salt: int = 0
    """Seed of the routing hash: new for each rollout, kept through its steps."""
    rollout_id: str = ""
    config_hash: str = ""
    """Which ``config.deployed`` event of stream ``{model}/config`` holds the model's configuration."""
    slow_ms: float | None = None
    """The champion's frozen latency threshold (model time), while a candidate is on trial."""
    slices: tuple[SliceColumn, ...] = ()
    """Slices of traffic that are counted by themselves, frozen like the threshold."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ModelRoutes":
        names = ("champion", "candidate", "previous")
        arms = {name: Arm(**content[name]) if content.get(name) else None for name in names}
        shadows = tuple(Arm(**arm) for arm in content.get("shadows") or ())
        slices = tuple(SliceColumn.from_json(column) for column in content.get("slices", ()))
        return cls(**{**content, **arms, "slices": slices, "shadows": shadows})


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Every model of the cluster. ``version`` is the ledger's sequence number of the newest change."""

    version: int = 0
    models: Mapping[str, ModelRoutes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"version": self.version, "models": {name: routes.to_json() for name, routes in self.models.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RouteTable":
        models = {name: ModelRoutes.from_json(routes) for name, routes in content["models"].items()}
        return cls(content["version"], models)


@dataclass(frozen=True, slots=True)
class Tally:
    """Cumulative counts of requests of one arm in one epoch, as one replica has seen them.

    Pinned traffic is not in it; failed-over requests are, under the arm they were assigned to.
    """

    model: str
    route_version: int
    epoch: int
    """Closed seconds of arrival time, or monitoring windows of event time (see ``rollout.evaluate``)."""
    arm: ArmName
    weight: float
    """The candidate's share of traffic under this route version."""
    requests: int = 0
    errors: int = 0
    """Outcomes other than `ok`."""
    slow: int = 0
    """Model time above the frozen threshold."""
    slo_violations: int = 0
    """End-to-end latency above ``latency_slo_ms``."""
    keyed: tuple[int, int, int, int] = (0, 0, 0, 0)
    """How many of those four were of requests with a routing key, under a split of traffic."""
    keys: tuple[tuple[int, int], ...] = ()
    """Routing keys that did something for the first time in this rollout, as far as this replica knows: hash, and
    what (``serving.rollout.units``)."""
    slices: tuple[tuple[int, int, int, int], ...] = ()
    """Number of a slice (``slice_labels`` of the routes), and the requests without a key that touched it under a
    split of traffic: all, failed, slow. Only slices that have any."""
    slice_keys: tuple[tuple[int, int, int], ...] = ()
    """Number of a slice, and what a routing key did in it for the first time: ``units.slice_keys``, and what."""
    failures: tuple[tuple[Outcome, int], ...] = ()
    """How many of the errors were of which kind."""

    def key(self) -> tuple[str, int, int, str]:
        return self.model, self.route_version, self.epoch, self.arm


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """The truth for one prediction."""

    id: str
    label: Any
    time: int | None = None
    """Event time of the label, microseconds since 1970 UTC; None when the client did not say."""
    arrival: int = 0
    """When the replica took it, microseconds since 1970 UTC."""
    is_correction: bool = False
    """It replaces the value that is in force; otherwise the first value of an id stands."""

    def __reduce__(self) -> tuple[type["LabelRecord"], tuple[Any, ...]]:
        # Labels go to the monitor by the thousand: a dataclass's own way takes three times as long.
        return LabelRecord, (self.id, self.label, self.time, self.arrival, self.is_correction)


LOG_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("prediction_id", pa.string()),
    ("request_id", pa.string()),
    ("event_time", pa.timestamp("us", tz="UTC")),
    ("arrival_time", pa.timestamp("us", tz="UTC")),
    ("arm", pa.string()),
    ("version", pa.string()),
    ("route_version", pa.int64()),
    ("routing_key_hash", pa.uint64()),
    ("pinned", pa.bool_()),
    ("outcome", pa.string()),
    ("weight", pa.float64()),
    ("model_time_us", pa.int64()),
    ("latency_us", pa.int64()),
    ("sample_weight", pa.float64()),
)
"""Columns of the prediction log before ``features.NAME`` (raw input columns, as the pipeline's Arrow types)
and ``prediction`` (float64: probability of the positive class, or the regression value) or, multiclass,
``prediction.CLASS`` for each class. ``version`` and ``arm`` are of the model that answered; a failed-over
row has ``arm='champion'`` and an ``outcome`` other than ``ok``. ``weight`` is the share of traffic that the
chosen arm had. ``routing_key_hash`` is null without a routing key. ``sample_weight`` is one over the probability
with which the log kept the row: 1 except under ``serving.log.policy: sample``, missing in files of earlier
releases (1 as well). Files: ``predictions/{model}/day=YYYY-MM-DD/{replica}-{sequence:08d}.parquet``, day by event
time, and of days that are over ``compacted-{digest}.parquet`` (``prediction_log.compaction``)."""


class PredictionSink(Protocol):
    """Takes logged rows off a replica's hands; must not raise into serving."""

    def accept(self, model: str, version: str, rows: pa.Table) -> None:
        """Take a flush of rows (columns as ``LOG_COLUMNS`` and what follows them); called from one thread."""

    def close(self) -> None:
        """Hand over what is left."""


class LabelSink(Protocol):
    """Takes labels that are already durable."""

    async def accept(self, model: str, labels: Sequence[LabelRecord]) -> Mapping[str, int]:
        """Return counts of `accepted`, `duplicate`, `conflicting` and `corrected`.

        A correction of the value that is in force already is a duplicate; of an id without a label, accepted.
        """


class MonitorView(Protocol):
    """What serving shows of the monitor, and what a rollout needs of it. Raises when the monitor is away."""

    async def view(self, model: str) -> Mapping[str, Any]:
        """The document of ``GET /monitoring``."""

    async def labelled(self, model: str, after_window: int) -> pa.Table:
        """Labelled rows of closed windows after one, in event order.

        Columns: ``prediction_id, request_id, window (int64), event_time, arm, version, route_version,
        routing_key_hash (null without a key), pinned, weight, label (float64: 0/1, class index or value),
        prediction`` (or ``prediction.CLASS``), and ``features.NAME`` of columns that define slices.
        """

    async def closed_window(self, model: str) -> int | None:
        """Index of the newest window that the watermark has passed; None before the first."""

    async def metrics(self) -> str:
        """The monitor's Prometheus exposition."""


class Explainer(Protocol):
    """Answers ``GET /explain/{prediction_id}``."""

    def explain(self, model: str, prediction_id: str) -> Mapping[str, Any]:
        """Everything that stands behind a prediction; raises ``NotFoundError`` for an unknown id."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Import paths (``package.module:factory``) of what the layers above implement.

    Each factory takes ``(store: StoreConfig)`` and is called once in each process.
    """

    prediction_sink: str | None = None
    label_sink: str | None = None
    monitor_view: str | None = None
    explainer: str | None = None
    console: str | None = None
    """An ASGI application mounted at ``/console``."""
