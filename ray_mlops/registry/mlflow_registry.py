"""The model registry of MLflow."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from ray_mlops.errors import ModelNotFoundError
from ray_mlops.registry.connection import connect, explained, normalize_tracking_uri
from ray_mlops.registry.parameters import MAX_TAG_LENGTH, accepted_name, truncate
from ray_mlops.registry.versions import KEY_TAG, RegisteredVersion


class MlflowRegistry:
    """A ``Registry`` kept by MLflow. Connects on first use, and pickles as its URI.

    Args:
        tracking_uri: ``sqlite:///PATH``, ``postgresql://...`` or the address of an MLflow server.

    Raises:
        RegistryError: In every method, if MLflow cannot be reached or refuses.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = normalize_tracking_uri(tracking_uri)

    def __reduce__(self) -> tuple[type["MlflowRegistry"], tuple[str]]:
        return MlflowRegistry, (self.tracking_uri,)

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self.tracking_uri)

    def create_version(
        self, model: str, bundle_uri: str, *, run_id: str | None, tags: Mapping[str, str], key: str
    ) -> RegisteredVersion:
        """Create the next version, once for each key.

        The key is a tag that is written in the same transaction as the version, so a crash leaves
        either both or nothing. Of two processes that create at once the lower number stays.
        """
        self._ensure_model(model)
        known = self._by_key(model, key)
        if known is not None:
            return known
        texts = {accepted_name(name): truncate(str(value), MAX_TAG_LENGTH) for name, value in tags.items()}
        with explained(f"model {model!r}"):
            created = self._client.create_model_version(
                model, bundle_uri, run_id=run_id, tags={**texts, KEY_TAG: key}, await_creation_for=0
            )
        first = self._by_key(model, key)
        if first is None or first.version == str(created.version):
            return _to_version(created)
        with explained(f"model {model!r}"):
            self._client.delete_model_version(model, str(created.version))
        return first

    def get(self, model: str, version_or_alias: str) -> RegisteredVersion:
        """Return a version by its number or by an alias.

        Raises:
            ModelNotFoundError: There is no such model, version or alias.
        """
        version: str | None = version_or_alias
        if not version_or_alias.isdecimal():
            version = self.aliases(model).get(version_or_alias)
        if version is None:
            remedy = "list what there is with 'ray-mlops versions'"
            raise ModelNotFoundError(f"has no alias {version_or_alias!r}", f"model {model!r}", remedy)
        with explained(f"model {model!r}"):
            return _to_version(self._client.get_model_version(model, version))

    def versions(self, model: str) -> list[RegisteredVersion]:
        """Return all versions of a model, the oldest first; empty for an unknown model."""
        found: list[Any] = []
        token: str | None = None
        with explained(f"model {model!r}"):
            while True:
                page = self._client.search_model_versions(f"name = '{model}'", page_token=token)
                found.extend(page)
                token = page.token
                if not token:
                    break
        ordered = sorted(map(_to_version, found), key=lambda version: int(version.version))
        by_key: dict[str, RegisteredVersion] = {}
        for version in ordered:
            by_key.setdefault(version.tags.get(KEY_TAG, f"version {version.version}"), version)
        return list(by_key.values())

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point an alias at a version.

        Raises:
            ModelNotFoundError: There is no such model or version.
        """
        with explained(f"model {model!r}"):
            self._client.set_registered_model_alias(model, alias, version)

    def aliases(self, model: str) -> dict[str, str]:
        """Return the version of each alias; empty for an unknown model."""
        try:
            with explained(f"model {model!r}"):
                found = self._client.get_registered_model(model).aliases
        except ModelNotFoundError:
            return {}
        return {alias: str(version) for alias, version in found.items()}

    def delete_alias(self, model: str, alias: str) -> None:
        """Take an alias away; nothing happens where there is none."""
        if alias in self.aliases(model):
            with explained(f"model {model!r}"):
                self._client.delete_registered_model_alias(model, alias)

    def _by_key(self, model: str, key: str) -> RegisteredVersion | None:
        return next((version for version in self.versions(model) if version.tags.get(KEY_TAG) == key), None)

    def _ensure_model(self, model: str) -> None:
        with explained(f"model {model!r}"):
            try:
                self._client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise


def _to_version(found: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(
        model=found.name,
        version=str(found.version),
        bundle=found.source or "",
        run_id=found.run_id or None,
        tags=dict(found.tags),
        created=found.creation_timestamp / 1000,
    )
