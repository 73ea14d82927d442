"""A version that answers from an application of its own, as the gateway sees it: what it is, without its weights."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import pyarrow as pa

from ray_mlops.config.data import Scalar, Task
from ray_mlops.data.features import FeaturePipeline
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import BundleError, FeatureError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.predictor import Answer, find_fault
from ray_mlops.serving.protocol import Arm
from ray_mlops.training.bundle import Manifest, Prediction

MANIFEST = "bundle.json"
REQUIRED = b"required"
"""Key of the metadata of an arm's schema: names of the inputs that a row must have, as JSON."""
OWN_CODE = "ray_mlops."
Rows = Sequence[Mapping[str, Any]]


class BundleView(Protocol):
    """What protocols, logs and labels need of a bundle; ``ModelBundle`` has it."""

    @property
    def task(self) -> Task: ...
    @property
    def classes(self) -> tuple[Scalar, ...]: ...
    @property
    def threshold(self) -> float: ...
    @property
    def encoder(self) -> TargetEncoder: ...


class Version(Protocol):
    """A version that can be asked, in this process (``Predictor``) or in another (``RemotePredictor``)."""

    @property
    def bundle(self) -> BundleView: ...

    schema: pa.Schema
    """Raw inputs with their Arrow types."""
    required: frozenset[str]
    """Inputs that a row must have."""

    def is_quick(self, num_rows: int) -> bool:
        """Whether so many rows may be predicted without a limit of time."""

    async def answer(self, rows: Sequence[dict[str, Any]]) -> Answer:
        """Predict."""

    def fault(self, prediction: Prediction, num_rows: int) -> str:
        """Say what is wrong with a prediction; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class BundleDescription:
    """What ``bundle.json`` says of a bundle; no weights are read, and no model is built."""

    manifest: Manifest
    schema: pa.Schema
    """Raw inputs with their Arrow types."""
    required: frozenset[str]

    @property
    def task(self) -> Task:
        return self.manifest.task

    @property
    def classes(self) -> tuple[Scalar, ...]:
        return self.manifest.classes

    @property
    def threshold(self) -> float:
        return self.manifest.threshold

    @property
    def encoder(self) -> TargetEncoder:
        return TargetEncoder(self.manifest.target, self.task, self.classes)


class RemotePredictor:
    """Asks a version in another process.

    Args:
        bundle: What it is.
        ask: Predicts rows; raises ``ConnectionError`` when the process is gone.

    Attributes:
        bundle: As given.
        schema: Raw inputs with their Arrow types.
        required: Inputs that a row must have.
    """

    def __init__(self, bundle: BundleDescription, ask: Callable[[Rows], Awaitable[Answer]]) -> None:
        self.bundle = bundle
        self.schema: pa.Schema = bundle.schema
        self.required = bundle.required
        self._ask = ask

    def is_quick(self, num_rows: int) -> bool:
        """Never: another process may hang."""
        return False

    async def answer(self, rows: Sequence[dict[str, Any]]) -> Answer:
        """Predict rows. Where a replica dies with the request in it, another is asked, once: predicting is repeatable.

        Raises:
            FeatureError: A value has the wrong type, or a column is missing.
            ConnectionError: No replica of it is there.
        """
        try:
            return await self._ask(rows)
        except ConnectionError:
            return await self._ask(rows)

    def fault(self, prediction: Prediction, num_rows: int) -> str:
        """Say what is wrong with a prediction; empty when nothing is."""
        return find_fault(prediction, num_rows, self.bundle.task, self.bundle.classes)


async def describe(
    arm: Arm, trusted: Sequence[str], ask_schema: Callable[[], Awaitable[pa.Schema]], read: Callable[[str], bytes]
) -> BundleDescription:
    """Describe an arm's bundle: from its files, or by the arm itself where its features need code that only it has.

    Args:
        arm: The version.
        trusted: Modules that the bundle may name code of.
        ask_schema: Asks the arm for its raw inputs.
        read: Reads ``bundle.json``, given the bundle's address.

    Raises:
        BundleError: ``bundle.json`` is missing or damaged.
        ConnectionError: The arm had to be asked, and is not there.
    """
    content = json.loads(await asyncio.to_thread(read, arm.bundle))
    manifest = Manifest.from_json(content, arm.bundle)
    others = [entry for entry in trusted if not entry.startswith(OWN_CODE)]
    try:
        features = FeaturePipeline.from_json(content["features"], others)
    except (FeatureError, BundleError, ImportError):
        schema = await ask_schema()
        required = orjson.loads((schema.metadata or {}).get(REQUIRED, b"[]"))
        return BundleDescription(manifest, schema.remove_metadata(), frozenset(required))
    required_names = frozenset(column.name for column in features.columns if column.required)
    return BundleDescription(manifest, features.input_schema(), required_names)


def read_manifest(bundle: str) -> bytes:
    """Read ``bundle.json``.

    Raises:
        BundleError: It is not there.
    """
    files = Files(bundle)
    if not files.exists(MANIFEST):
        raise BundleError("bundle.json is missing", bundle, "is the store where it was?")
    return files.read(MANIFEST)
