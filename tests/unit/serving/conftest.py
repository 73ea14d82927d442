"""Small real bundles and a gateway made of them, without Ray."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest
import torch
from torch import nn

from ray_mlops.config import FeatureConfig, PredictionLogConfig, ServingConfig
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.errors import OverloadError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.app import Gateway
from ray_mlops.serving.auth import Authenticator
from ray_mlops.serving.label_log import LabelLog
from ray_mlops.serving.loaded import LoadedTable, ModelSettings, TableLoader
from ray_mlops.serving.parts import Parts
from ray_mlops.serving.prediction_log.log import PredictionLog
from ray_mlops.serving.predictor import Answer
from ray_mlops.serving.protocol import Arm, LabelRecord, ModelRoutes, RouteTable, Tally
from ray_mlops.serving.telemetry import Telemetry
from ray_mlops.training.bundle import Manifest, ModelBundle, Prediction
from ray_mlops.training.models import ModelSpec

TOKENS = {"predict": "p-token", "label": "l-token", "read": "r-token", "operate": "o-token"}
OPERATOR = {"authorization": "Bearer o-token"}
CLASSES: Mapping[str, tuple[Any, ...]] = {"binary": (0, 1), "multiclass": ("a", "b", "c"), "regression": ()}


class Sum(nn.Module):
    """Adds up its numeric inputs and a constant; ``fault`` breaks it."""

    def __init__(self, num_outputs: int, shift: float) -> None:
        super().__init__()
        self.num_outputs, self.shift = num_outputs, shift
        self.fault: Callable[[], float] | None = None

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        extra = self.fault() if self.fault else 0.0
        total = numeric.sum(1, keepdim=True) + self.shift + extra
        return total * torch.arange(1, self.num_outputs + 1, dtype=torch.float32)


def build_bundle(
    task: Any = "binary",
    shift: float = 0.0,
    extra: str | None = None,
    rows: Mapping[str, Any] | None = None,
    optional: Sequence[str] = (),
) -> ModelBundle:
    """A bundle with inputs ``distance`` (numeric) and ``carrier`` (categorical), and perhaps one more number.

    ``rows`` are fitted instead of these; ``optional`` inputs may be left out.
    """
    columns = dict(rows or {"distance": [100.0, 200.0, 300.0, None], "carrier": ["UA", "DL", "UA", None]})
    if extra is not None:
        columns[extra] = [1.0, 2.0, 3.0, 4.0]
    table = pa.table(columns)
    names = [FeatureConfig(name=name) for name in columns]
    features = FeaturePipeline.fit_table(table, names, optional=optional)
    classes = CLASSES[task]
    spec = ModelSpec(
        task, len(features.numeric_names), features.categorical_sizes, max(1, len(classes) * (len(classes) > 2))
    )
    manifest = Manifest("flights", task, "late", classes, "ray_mlops.training.models:tabular", {}, spec)
    bundle = ModelBundle(manifest, features, Sum(spec.num_outputs, shift), None, None)  # type: ignore[arg-type]
    return bundle.with_parity(table)


@dataclass
class ScriptedArms:
    """Isolated candidates: each version does what it was told."""

    behaviours: dict[str, Callable[[Sequence[Mapping[str, Any]]], Any]] = field(default_factory=dict)
    calls: int = 0
    gone: set[str] = field(default_factory=set)

    def is_gone(self, model: str, version: str) -> bool:
        return version in self.gone

    async def predict(self, model: str, version: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        self.calls += 1
        result = self.behaviours[version](rows)
        if asyncio.iscoroutine(result):
            result = await result
        if isinstance(result, BaseException):
            raise result
        return Answer(result, 0.001)


@dataclass
class ScriptedControl:
    """A rollouts actor that remembers what it was asked."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    reports: list[list[Tally]] = field(default_factory=list)

    async def request(self, model: str, version: str, **options: Any) -> Mapping[str, Any]:
        return self._note("start", model, version, options)

    async def command(self, model: str, command: str, **options: Any) -> Mapping[str, Any]:
        return self._note(command, model, options)

    async def shadow(self, model: str, version: str, **options: Any) -> Mapping[str, Any]:
        return self._note("shadow", model, version, options)

    async def view(self, model: str) -> Mapping[str, Any]:
        return self._note("view", model)

    async def report(
        self,
        replica: str,
        sequence: int,
        tallies: Sequence[Tally],
        watermark_s: float,
        route_versions: Mapping[str, int],
    ) -> bool:
        if self.error is not None:
            raise self.error
        self.reports.append(list(tallies))
        return True

    def _note(self, *call: Any) -> Mapping[str, Any]:
        if self.error is not None:
            raise self.error
        self.calls.append(call)
        return {"done": call[0]}


@dataclass
class ScriptedMonitor:
    """A monitor that answers, fails or hangs; it sorts labels as well."""

    fails: bool = False
    hangs: bool = False
    labels: list[LabelRecord] = field(default_factory=list)
    corrected: int = 0
    """What it says of the labels that are corrections."""

    async def _say(self, value: Any) -> Any:
        if self.hangs:
            await asyncio.sleep(60)
        if self.fails:
            raise OverloadError("the monitor is away")
        return value

    async def view(self, model: str) -> Mapping[str, Any]:
        return await self._say({"model": model, "windows": 3})

    async def metrics(self) -> str:
        return await self._say("# TYPE ray_mlops_drift gauge\nray_mlops_drift 0.5\n")

    async def accept(self, model: str, labels: Sequence[LabelRecord]) -> Mapping[str, int]:
        known = {label.id for label in self.labels}
        fresh = [label for label in labels if label.id not in known]
        self.labels.extend(fresh)
        counts = {"accepted": len(fresh), "duplicate": len(labels) - len(fresh), "conflicting": 0}
        return await self._say(counts | ({"corrected": self.corrected} if self.corrected else {}))


class FakeClock:
    """Unix seconds that move when told."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Rig:
    """A gateway with one model ``flights``; bundles are looked up by name."""

    def __init__(self, root: Path, serving: ServingConfig | None = None) -> None:
        self.serving = serving or ServingConfig()
        self.clock = FakeClock()
        self.files = Files(str(root))
        self.telemetry = Telemetry("replica-1", self.clock)
        self.arms, self.control, self.monitor = ScriptedArms(), ScriptedControl(), ScriptedMonitor()
        self.bundles: dict[str, ModelBundle] = {"one": build_bundle(), "two": build_bundle(shift=1.0)}
        self.settings = ModelSettings(trusted=("ray_mlops.",))
        self.extra_schema = pa.schema([])
        self.log = PredictionLog(self.files, root / "accounting", "replica-1", self.serving.log, 0.01)
        self.parts = Parts(
            serving=self.serving,
            telemetry=self.telemetry,
            predictions=self.log,
            labels=LabelLog(self.files, "replica-1"),
            authenticator=Authenticator(TOKENS, self.serving.predict_auth),  # type: ignore[arg-type]
            arms=self.arms,
            control=self.control,
            monitor=self.monitor,  # type: ignore[arg-type]
            label_sink=self.monitor,
        )
        self.gateway = Gateway(self.parts)

    def change(self, **parts: Any) -> None:
        """Exchange parts of the gateway, keeping the table."""
        table = self.gateway.table
        self.parts = replace(self.parts, **parts)
        self.gateway = Gateway(self.parts)
        self.gateway.table = table

    async def _ask(self, model: str, version: str, rows: Any) -> Answer:
        return await self.arms.predict(model, version, rows)

    async def _schema(self, model: str, version: str) -> pa.Schema:
        return self.extra_schema

    def loader(self) -> TableLoader:
        return TableLoader(
            lambda uri, trusted: self.bundles[uri], lambda routes: self.settings, self._schema, b"salt", self._ask
        )

    async def apply(self, *routes: ModelRoutes, version: int = 1) -> LoadedTable:
        """Load a table and swap it in."""
        table = RouteTable(version, {route.model: route for route in routes or (ROUTES,)})
        self.gateway.table = await self.loader().load(table, self.gateway.table)
        return self.gateway.table

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.gateway)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    async def logged(self) -> pa.Table:
        """Flush, and read the files of the log."""
        await self.log.flush()
        tables = [self.files.read_table(name) for name in self.files.names("predictions")]
        return pa.concat_tables(tables, promote_options="permissive")


ROUTES = ModelRoutes("flights", 3, Arm("1", "one", "hash-1"), salt=7)
ROW = {"distance": 200.0, "carrier": "UA"}


def split(weight: float, placement: Any = "isolated") -> ModelRoutes:
    """Champion 1 and candidate 2."""
    return replace(ROUTES, version=4, candidate=Arm("2", "two", "hash-2", placement, weight), slow_ms=0.5)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture
def kit() -> Any:
    """Everything of this module."""
    import sys

    return sys.modules[__name__]


def prediction(values: Sequence[float], task: Any = "binary") -> Prediction:
    return Prediction(task, np.asarray(values, np.float64), CLASSES[task])


def body(**content: Any) -> bytes:
    return orjson.dumps(content)


def log_config(**options: Any) -> ServingConfig:
    return ServingConfig(log=PredictionLogConfig(**options))
