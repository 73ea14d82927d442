"""``ModelBundle``: everything a version needs to answer, in memory and on disk.

A bundle is a directory: ``bundle.json`` (all that is text: see ``Manifest``, the feature pipeline, and the SHA-256 of
every other file), ``weights.safetensors``, ``profile.json``, ``parity.parquet`` and ``MLmodel``. Nothing in it is a
pickle, and loading it runs no code that it carries. Its hash is that of ``bundle.json``: no time and no id of a run
is in there, so the same snapshot, configuration, code and seed give the same hash. What is different each time
goes into ``provenance.json``, which is not hashed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from ray_mlops.config.data import Scalar, Task
from ray_mlops.data.features import FeatureMatrix, FeaturePipeline
from ray_mlops.data.reference import ReferenceProfile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import BundleError, TrainingError
from ray_mlops.runtime.files import Files
from ray_mlops.training.bundle_files import MANIFEST, PROVENANCE, bundle_hash, read_verified, write_bundle
from ray_mlops.training.factory import OWN_PACKAGE, build_model, check_trusted
from ray_mlops.training.manifest import Manifest
from ray_mlops.training.mlmodel import write_mlmodel
from ray_mlops.training.models import ModelSpec
from ray_mlops.training.objective import to_values
from ray_mlops.training.parity import PARITY_BATCH_ROWS, ParitySet, predict_in_batches
from ray_mlops.training.prediction import Prediction
from ray_mlops.training.rows import as_tensor
from ray_mlops.training.scaling import TargetScaling
from ray_mlops.training.threads import cpu_threads
from ray_mlops.training.weights import find_mismatch, weights_from_bytes, weights_to_bytes

__all__ = ["BundleRef", "Manifest", "ModelBundle", "ParitySet", "Prediction"]

CHUNK_ROWS = 8192
"""Rows that go through the model at once; bounds memory for large tables."""


@dataclass(frozen=True, slots=True)
class BundleRef:
    """Where a bundle was saved."""

    uri: str
    """Absolute address: a local path or a URI."""
    hash: str
    """Content hash, 32 hexadecimal digits."""
    path: str
    """Path in the store, ``bundles/{hash}``."""


@dataclass(frozen=True)
class ModelBundle:
    """A model with its features, calibration, reference profile and parity rows. Safe to share between threads."""

    manifest: Manifest
    features: FeaturePipeline
    model: nn.Module
    """In evaluation mode."""
    profile: ReferenceProfile
    parity: ParitySet
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Run id, time, job: what differs from run to run. Not part of the hash."""

    def __post_init__(self) -> None:
        self.model.eval()

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def task(self) -> Task:
        return self.manifest.task

    @property
    def target(self) -> str:
        return self.manifest.target

    @property
    def classes(self) -> tuple[Scalar, ...]:
        return self.manifest.classes

    @property
    def threshold(self) -> float:
        return self.manifest.threshold

    @property
    def loss_scale(self) -> float:
        return self.manifest.loss_scale

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    @property
    def snapshot(self) -> str:
        return self.manifest.snapshot

    @property
    def encoder(self) -> TargetEncoder:
        """Turns labels into the numbers that losses and metrics take."""
        return TargetEncoder(self.target, self.task, self.classes)

    @property
    def scaling(self) -> TargetScaling:
        """How a regression's target was standardised; fine-tuning keeps it."""
        return TargetScaling(self.manifest.target_mean, self.manifest.target_scale)

    @property
    def hash(self) -> str:
        """Content hash; 32 hexadecimal digits."""
        return bundle_hash(self._contents()[MANIFEST])

    def predict(self, rows: pa.Table | FeatureMatrix | Sequence[Mapping[str, Any]]) -> Prediction:
        """Predict a table, JSON-like rows, or features that were transformed before.

        Raises:
            FeatureError: A value of the wrong type, or a missing column.
        """
        if isinstance(rows, FeatureMatrix):
            return self.predict_matrix(rows)
        is_table = isinstance(rows, pa.Table)
        return self.predict_matrix(self.features.transform(rows) if is_table else self.features.transform_rows(rows))

    def predict_matrix(self, features: FeatureMatrix) -> Prediction:
        """Predict from features; the same batch of rows gives the same bits in every process (CPU)."""
        values = predict_in_batches(self._values, features, CHUNK_ROWS)
        return Prediction(self.task, values, self.classes, self.threshold)

    def outputs(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        """The model's own outputs [n, k], before calibration."""
        return predict_in_batches(self._outputs, features, CHUNK_ROWS)

    def state(self) -> dict[str, torch.Tensor]:
        """The weights, to start a fine-tuning from."""
        return {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}

    def with_profile(self, profile: ReferenceProfile) -> "ModelBundle":
        """The same bundle with another profile (scores and importances are known only after training)."""
        return replace(self, profile=profile)

    def with_parity(self, rows: pa.Table, batch_rows: int = PARITY_BATCH_ROWS) -> "ModelBundle":
        """The same bundle, with expected features and predictions of these raw rows, written by its own pass."""
        raw = self.features.canonical_table(rows)
        features = self.features.transform(raw)
        return replace(
            self, parity=ParitySet(raw, features, predict_in_batches(self._values, features, batch_rows), batch_rows)
        )

    def save(self, files: Files) -> BundleRef:
        """Write to ``bundles/{hash}/``; a complete bundle that is there already is kept.

        All files are written first and ``bundle.json`` last, so that a bundle is whole or not there.

        Raises:
            StoreError: The store cannot be written.
        """
        contents = self._contents()
        content_hash = bundle_hash(contents[MANIFEST])
        path = f"bundles/{content_hash}"
        provenance = json.dumps(dict(self.provenance), indent=1, sort_keys=True, default=str).encode()
        write_bundle(files, path, contents, {PROVENANCE: provenance})
        return BundleRef(files.uri(path), content_hash, path)

    @classmethod
    def load(cls, uri: str, trusted: Sequence[str] = (OWN_PACKAGE,), device: str = "cpu") -> "ModelBundle":
        """Load a bundle after checking every file against its hash.

        Args:
            uri: The bundle's directory: a local path or any fsspec URI.
            trusted: Modules that may be imported for the model's factory and for feature functions; see
                ``factory.check_trusted``.
            device: Torch device that predicts.

        Raises:
            BundleError: A file is missing or damaged, the bundle is from a newer release, or it names code that is
                not trusted.
        """
        contents, manifest_json, provenance = read_verified(uri)
        manifest = Manifest.from_json(manifest_json, uri)
        check_trusted(manifest.factory, trusted)
        others = [entry for entry in trusted if not entry.startswith(OWN_PACKAGE)]
        features = FeaturePipeline.from_json(manifest_json["features"], others)
        model = _build(manifest, contents["weights.safetensors"], uri).to(device)
        profile = ReferenceProfile.from_json(json.loads(contents["profile.json"]))
        return cls(manifest, features, model, profile, ParitySet.from_bytes(contents["parity.parquet"]), provenance)

    def _outputs(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        device = self._device
        with torch.inference_mode(), cpu_threads(1):
            numeric = as_tensor(features.numeric).to(device)
            categorical = as_tensor(features.categorical).to(device)
            return np.asarray(self.model(numeric, categorical).cpu().numpy(), np.float64)

    def _values(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        kept = self.manifest
        outputs = self._outputs(features)
        return to_values(self.task, outputs, kept.temperature, kept.target_mean, kept.target_scale, kept.shift)

    @property
    def _device(self) -> torch.device:
        return next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))

    def _contents(self) -> dict[str, bytes]:
        contents = {
            "weights.safetensors": weights_to_bytes(self.model.state_dict()),
            "profile.json": _canonical(self.profile.to_json()),
            "parity.parquet": self.parity.to_bytes(),
            "MLmodel": write_mlmodel(self.manifest, self.features),
        }
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        described = {**self.manifest.to_json(), "features": self.features.to_json(), "files": hashes}
        return {**contents, MANIFEST: _canonical(described)}


def _canonical(content: Any) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode()


def _build(manifest: Manifest, content: bytes, where: str) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            model = build_model(manifest.factory, manifest.spec, manifest.params)
    except TrainingError as error:
        raise BundleError(f"its model cannot be built: {error}", where) from error
    weights = weights_from_bytes(content)
    if mismatch := find_mismatch(model, weights):
        remedy = "the factory's code is not what it was when the bundle was made"
        raise BundleError(f"its weights do not fit its model: {mismatch}", where, remedy)
    model.load_state_dict(weights)
    return model
