"""What a process of its own may have of its own: packages, modules and environment variables."""

from pathlib import PurePosixPath
from typing import Any, Self

from pydantic import PositiveInt, field_validator, model_validator

from ray_mlops.config.section import Section

_IS_OURS = ("RAY_", "PYTHONPATH")
"""Variables by which Ray finds itself and its code."""


class RuntimeEnvConfig(Section):
    """A runtime environment of Ray: it is built on each node on which a replica starts."""

    env_vars: dict[str, str] = {}
    """Environment variables, beside the gateway's. Not those that begin with `RAY_`, nor `PYTHONPATH`."""
    pip: list[str] | None = None
    """Requirements (`torch==2.9.0`) that pip installs above the cluster's own packages."""
    uv: list[str] | None = None
    """The same, installed by uv."""
    conda: str | dict[str, Any] | None = None
    """Name of a conda environment that every node has, or the content of an ``environment.yml``. It must have Ray
    and ray-mlops, in the cluster's versions."""
    py_modules: list[str] = []
    """Directories for the import path: absolute paths that every node has, or URIs (``s3://``, ``gs://``,
    ``https://``, ``file://``) of archives and wheels."""
    working_dir: str | None = None
    """The directory that the processes start in: an absolute path or a URI, as above."""
    setup_timeout_s: PositiveInt = 600
    """Building it may take this long; it counts into ``rollout.prepare_timeout_s``."""

    @field_validator("env_vars")
    @classmethod
    def _are_not_ours(cls, env_vars: dict[str, str]) -> dict[str, str]:
        taken = [name for name in env_vars if name.startswith(_IS_OURS)]
        if taken:
            raise ValueError(f"{', '.join(taken)} is Ray's to set; for modules of your own use py_modules")
        wrong = [name for name in env_vars if not name or "=" in name or "\0" in name + env_vars[name]]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no name of an environment variable")
        return env_vars

    @field_validator("pip", "uv")
    @classmethod
    def _are_requirements(cls, requirements: list[str] | None) -> list[str] | None:
        for requirement in requirements or []:
            if not requirement.strip() or "\n" in requirement:
                raise ValueError(f"expected one requirement an entry, like 'torch==2.9.0', got {requirement!r}")
        return requirements

    @field_validator("py_modules")
    @classmethod
    def _are_found_everywhere(cls, places: list[str]) -> list[str]:
        for place in places:
            _check_place(place)
        return places

    @field_validator("working_dir")
    @classmethod
    def _is_found_everywhere(cls, place: str | None) -> str | None:
        return None if place is None else _check_place(place)

    @model_validator(mode="after")
    def _has_one_installer(self) -> Self:
        named = [name for name in ("pip", "uv", "conda") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude each other: name one")
        return self

    def to_ray(self) -> dict[str, Any]:
        """As Ray takes it; empty where nothing differs.

        Example:
            >>> RuntimeEnvConfig().to_ray()
            {}
            >>> RuntimeEnvConfig(py_modules=["/srv/models"]).to_ray()["py_modules"]
            ['local:///srv/models']
        """
        content: dict[str, Any] = {
            "env_vars": self.env_vars,
            "pip": self.pip,
            "uv": self.uv,
            "conda": self.conda,
            "py_modules": [_to_uri(place) for place in self.py_modules],
            "working_dir": None if self.working_dir is None else _to_uri(self.working_dir),
        }
        wanted = {name: value for name, value in content.items() if value}
        return wanted and {**wanted, "config": {"setup_timeout_seconds": self.setup_timeout_s}}


def _check_place(place: str) -> str:
    if "://" not in place and not PurePosixPath(place).is_absolute():
        raise ValueError(f"expected an absolute path or a URI, got {place!r}: replicas start in other directories")
    return place


def _to_uri(place: str) -> str:
    return place if "://" in place else f"local://{PurePosixPath(place)}"
