"""How models answer requests, and how a candidate becomes champion."""

from datetime import timedelta
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ray_mlops.config.runtime_env import RuntimeEnvConfig
from ray_mlops.config.section import Duration, Section

GuardName = Literal["errors", "latency", "latency_slo", "loss", "score_shift", "sample_ratio", "slices"]

MAX_SLICE_COLUMNS = 5


class FailedRequestsConfig(Section):
    """Requests that failed, with their bodies, kept for `ray-mlops replay --failed`: those answered with a 5xx, and
    those that the candidate failed and the champion answered. Where ``redact`` names a column, no body and no error
    text is kept, since any of them may hold it."""

    enabled: bool = True
    client_errors: bool = False
    """Keep requests that were refused as the client's mistake (4xx) as well."""
    max_body_kb: PositiveFloat = 64.0
    """A larger body is left out; that the request failed is kept."""
    max_mb: PositiveFloat = 64.0
    """All of a model's failed requests, MiB; the oldest give way."""
    retention: Duration = timedelta(days=14)
    """`ray-mlops gc` deletes older ones (arrival time)."""


class PredictionLogConfig(Section):
    """The log of every prediction, in Parquet by event day."""

    max_buffer_rows: PositiveInt = 50_000
    """Rows held in memory before the policy acts."""
    policy: Literal["drop", "block", "sample", "spill"] = "drop"
    """What happens to rows when memory is full. `drop`: they are left out, and counted. `block`: requests get 503
    until there is room. `sample`: a uniform sample stays, each row with its ``sample_weight``, the rest is counted as
    dropped. `spill`: they go to a local file, and from there to the store when it keeps up again."""
    max_spill_mb: PositiveFloat = 256.0
    """Local disk that `policy: spill` may take in each replica, MiB; beyond it rows are dropped, and counted."""
    durability: Literal["batch", "spool"] = "batch"
    """What the death of a replica costs, whatever the policy. `batch`: the rows in memory, counted as lost. `spool`:
    nothing, since every row is appended to a local file before its answer is sent."""
    compact: bool = True
    """Whether the monitor turns the small files of days that are over into few large ones; `gc` does so in any case."""
    failed_requests: FailedRequestsConfig = FailedRequestsConfig()
    redact: dict[str, Literal["drop", "hash"]] = {}
    """Columns that the log leaves out, or keeps as a salted hash."""

    @model_validator(mode="after")
    def _durable_rows_stay(self) -> Self:
        if self.policy == "sample" and self.durability == "spool":
            raise ValueError("policy 'sample' drops rows that durability 'spool' promises to keep; use 'spill'")
        return self


class ServingConfig(Section):
    """The gateway: one Serve application for every model of the cluster."""

    host: str = "127.0.0.1"
    """Bound to loopback unless told otherwise."""
    port: int = Field(8000, ge=0, le=65535)
    """HTTP port; when it is in use the next free one is taken and said, 0 picks any."""
    grpc_port: int | None = Field(None, ge=0, le=65535)
    """Port of the Open Inference Protocol over gRPC, chosen like ``port``; null leaves gRPC off."""
    num_replicas: PositiveInt = 1
    cpus_per_replica: NonNegativeFloat = 0.1
    max_ongoing_requests: PositiveInt = 128
    max_queued_requests: PositiveInt = 1024
    request_timeout_s: PositiveFloat = 30.0
    """How long the champion may take, and how long a request may wait for a place before that."""
    body_timeout_s: PositiveFloat = 10.0
    """A client that takes longer to send its body is given up (HTTP 408)."""
    candidate_timeout_s: PositiveFloat = 5.0
    """A candidate that takes longer is booked as failed, and the champion answers. ``rollout.candidate.timeout_s``
    says it for one model."""
    placement: Literal["replica", "deployment"] = "replica"
    """Where the champion runs. `replica`: inside the gateway, without a hop. `deployment`: behind a handle in an
    application of its own, with the resources and packages of ``rollout.candidate``, for a model that is too big
    for the gateway or needs a GPU. Nobody answers in its place: while its process is away, requests get a 503. The
    previous champion keeps its replicas until the next promotion, so that a rollback waits for nothing."""
    max_body_mb: PositiveFloat = 16.0
    max_held_mb: PositiveFloat = 256.0
    """Bodies of all requests that are read or wait, in MiB; more is overload. At least one body always fits."""
    max_rows: PositiveInt = 10_000
    max_json_depth: PositiveInt = 16
    flush_interval_s: PositiveFloat = 0.25
    """How long a row waits at most before it is logged and handed to the monitor."""
    predict_auth: Literal["open", "token"] = "open"
    """`token` asks for a bearer token with the role `predict` or `label`; operators always need one."""
    log: PredictionLogConfig = PredictionLogConfig()


class ShadowConfig(Section):
    """The candidate scores logged rows beside the champion, off the request path."""

    enabled: bool = True
    min_pairs: PositiveInt = 500
    """Labelled pairs before non-inferiority may be concluded."""
    max_pairs: PositiveInt = 20_000
    """Give up (`inconclusive`) after this many labelled pairs."""
    loss_margin: PositiveFloat = 0.01
    """How much worse the candidate's mean loss may be (see ``ray_mlops.statistics``: losses lie in [0, 1])."""


class GuardsConfig(Section):
    """Tests that can stop a rollout. All are valid however often they are looked at."""

    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Probability of ever rolling back a candidate that is no worse, over all guards together."""
    promote_alpha: float = Field(0.05, gt=0, lt=0.5)
    """Probability of ever promoting a candidate that is worse than the margin."""
    error_limit: float = Field(0.01, gt=0, lt=1)
    """The candidate's error ratio must be shown to lie below this (or not worse than the champion's)."""
    error_margin: PositiveFloat = 0.5
    """Relative margin of non-inferiority in errors: 0.5 allows 1.5 times the champion's."""
    hard_error_ratio: float = Field(0.5, gt=0, le=1)
    """Roll back at once above this candidate error ratio over the last ``hard_error_requests``."""
    hard_error_requests: PositiveInt = 20
    latency_quantile: float = Field(0.95, gt=0.5, lt=1)
    """The champion's quantile of model time, frozen at the start, that counts as slow."""
    latency_slo_ms: PositiveFloat = 1000.0
    """End-to-end latency above which a request counts as a violation, for both arms."""
    slo_limit: float = Field(0.05, gt=0, lt=1)
    """Share of violations that the candidate must be shown to stay below."""
    sample_ratio_alpha: float = Field(1e-4, gt=0, lt=0.1)
    dry_run: list[GuardName] = ["score_shift"]
    """Guards that are computed and shown but never act."""
    slices: list[str] = Field([], max_length=MAX_SLICE_COLUMNS)
    """Input columns whose values define slices of traffic (numbers are cut at the quartiles of the champion's
    reference). Errors, slow requests and loss are compared in each slice as well, for kinds that are not in
    ``dry_run``. None by default."""
    max_slice_values: int = Field(10, ge=1, le=20)
    """Values of a column that are slices of their own, the most frequent first; the rest, and values never seen
    before, are one slice ``(other)``, and nulls one slice ``(missing)``."""
    min_slice_units: PositiveInt = 50
    """Units (routing keys, or requests without one) of both arms that a slice needs before it may stop a rollout."""

    @model_validator(mode="after")
    def _slices_differ(self) -> Self:
        if len(set(self.slices)) != len(self.slices):
            raise ValueError(f"a column is listed twice in slices: {self.slices}")
        return self


class CandidateConfig(Section):
    """The application that a version on trial runs in, and the champion with ``serving.placement: deployment``."""

    num_replicas: PositiveInt | Literal["auto"] = "auto"
    """Replicas of the version. `auto` has as many as its share of traffic asks for, by the champion's replicas and
    by the measured load, and has them before that share rises."""
    cpus: NonNegativeFloat | None = None
    """CPUs of each replica; null takes ``serving.cpus_per_replica``."""
    gpus: NonNegativeFloat = 0.0
    """GPUs of each replica; a fraction shares one. The model is put on the GPU where torch finds one, as in
    training; a cluster that has not as many is refused when the rollout begins."""
    memory_mb: PositiveInt | None = None
    """Memory that Ray sets aside for each replica; null sets none aside."""
    max_ongoing_requests: PositiveInt | None = None
    """Requests that one gateway replica lets wait for the version at once, and that one replica of it takes. What is
    beyond that the champion answers, booked as `overloaded`: a version that hangs must not hold every place of the
    gateway. Null is half of ``serving.max_ongoing_requests`` in the gateway and all of it in the replica."""
    target_utilisation: float = Field(0.5, gt=0, le=1)
    """Share of its time that a replica is to spend in the model, for `auto`."""
    timeout_s: PositiveFloat | None = None
    """See ``serving.candidate_timeout_s``, which null takes."""
    runtime_env: RuntimeEnvConfig = RuntimeEnvConfig()
    """Packages and environment variables of its processes, where they differ from the gateway's."""

    @field_validator("gpus")
    @classmethod
    def _is_share_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"more than one GPU must be a whole number of them, got {gpus:g}")
        return gpus

    def needs_own_process(self) -> list[str]:
        """Names of the fields that are set and mean nothing inside the gateway's process."""
        default = CandidateConfig()
        own = ("num_replicas", "cpus", "gpus", "memory_mb", "runtime_env")
        return [name for name in own if getattr(self, name) != getattr(default, name)]


class RolloutConfig(Section):
    """From candidate to champion."""

    auto_start: bool = True
    """A candidate that passed the gate starts its rollout by itself."""
    auto_promote: bool = True
    """Promote on evidence; False waits for a person at the last step."""
    isolation: Literal["isolated", "in_replica"] = "isolated"
    """`isolated` runs a version on trial in an application of its own, where it can crash, hang or exhaust memory
    without touching the champion; `in_replica` inside the gateway, for one that is light and trusted."""
    candidate: CandidateConfig = CandidateConfig()
    shadow: ShadowConfig = ShadowConfig()
    steps: list[float] = [0.05, 0.25, 0.5]
    """Shares of traffic for the candidate, rising."""
    min_requests: NonNegativeInt = 50
    """Requests to the candidate before a step may end."""
    min_duration_s: NonNegativeFloat = 0.0
    """Wall-clock seconds before a step may end."""
    max_duration_s: PositiveFloat = 7 * 86400.0
    """A step that is still inconclusive after this long does what ``on_inconclusive`` says."""
    on_inconclusive: Literal["pause", "rollback"] = "pause"
    bake_requests: NonNegativeInt = 100
    """Requests that the new champion answers, with the old one warm, before the rollout is over."""
    evaluate: Literal["continuous", "window"] = "continuous"
    """`continuous` looks at each closed second of arrival time; `window` once for each closed monitoring
    window of event time, which makes a replay repeatable."""
    max_shadows: int = Field(3, ge=0, le=50)
    """Versions besides the candidate that may score logged rows at once; each is a process of its own."""
    guards: GuardsConfig = GuardsConfig()
    prepare_timeout_s: PositiveFloat = 180.0
    max_rollout: Duration | None = None
    """Event time after which an unfinished rollout is rolled back; None waits."""

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        if not self.steps or any(not 0 < w < 1 for w in self.steps) or sorted(set(self.steps)) != list(self.steps):
            raise ValueError(f"steps must rise strictly within (0, 1), got {self.steps}")
        return self

    @model_validator(mode="after")
    def _candidate_has_a_process(self) -> Self:
        own = self.candidate.needs_own_process()
        if self.isolation == "in_replica" and own:
            names = ", ".join(f"candidate.{name}" for name in own)
            raise ValueError(f"{names} needs 'isolation: isolated': the candidate shares the gateway's process")
        return self
