"""What ``bundle.json`` says, apart from the feature pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ray_mlops.config.data import Scalar, Task
from ray_mlops.errors import BundleError
from ray_mlops.training.models import ModelSpec

SCHEMA_VERSION = 2
"""The newest that is read. What has no shift is written as version 1, so that older releases read it, and its hash
stays; they would leave a shift out, and serve other probabilities without a word."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The text of a bundle. Everything here is in the bundle's hash, so nothing here may differ from run to run."""

    name: str
    """The model's name."""
    task: Task
    target: str
    classes: tuple[Scalar, ...]
    """Binary: negative, positive. Multiclass: in the order of the outputs. Regression: empty."""
    factory: str
    """Dotted path of the model's factory."""
    params: Mapping[str, Any]
    """Keyword arguments of the factory."""
    spec: ModelSpec
    temperature: float = 1.0
    """Divides logits before they become probabilities."""
    shift: tuple[float, ...] = ()
    """Added to logits after that, one number (binary) or one for each class: how a recalibration answers other base
    rates. Empty adds nothing."""
    threshold: float = 0.5
    """Binary: the probability from which the label is the positive class."""
    loss_scale: float = 1.0
    """Regression: absolute error that counts as total loss."""
    target_mean: float = 0.0
    """Regression: the model predicts ``(target - target_mean) / target_scale``."""
    target_scale: float = 1.0
    snapshot: str = ""
    """Id of the snapshot it was trained on."""
    contract: Mapping[str, Any] = field(default_factory=dict)
    """The data contract in force, as JSON."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from, as far as it is the same each time: configuration hash, code, seed, parent."""

    @property
    def positive(self) -> Scalar | None:
        """The class that counts as 1 (binary)."""
        return self.classes[1] if self.task == "binary" else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        model = {"factory": content.pop("factory"), "params": dict(content.pop("params")), "spec": self.spec.to_json()}
        del content["spec"]
        plain = {**content, "classes": list(self.classes), "contract": dict(self.contract), "shift": list(self.shift)}
        if not self.shift:
            del plain["shift"]  # so that bundles from before there was one keep their hash
        return {"schema_version": 2 if self.shift else 1, **plain, "lineage": dict(self.lineage), "model": model}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> "Manifest":
        """Read what ``to_json`` wrote; other keys of the file are left alone.

        Raises:
            BundleError: A newer release wrote it, or something is missing.
        """
        version = content.get("schema_version")
        if version not in range(1, SCHEMA_VERSION + 1):
            problem = f"bundle.json has schema_version {version!r}, this release reads up to {SCHEMA_VERSION}"
            raise BundleError(problem, where, "upgrade ray-mlops")
        try:
            model = content["model"]
            known = {entry.name: content[entry.name] for entry in fields(cls) if entry.name in content}
            spec = ModelSpec.from_json(model["spec"])
            return cls(
                **{**known, "classes": tuple(content["classes"]), "shift": tuple(content.get("shift", ()))},
                factory=model["factory"],
                params=model["params"],
                spec=spec,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"bundle.json is damaged: {error!r}", where) from error
