"""Imports only point down the layers, and what is called pure never imports Ray."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ray_mlops"
LAYERS = [
    *("errors", "config", "runtime", "ledger", "statistics", "data", "training", "evaluation", "registry"),
    *("serving", "monitoring", "orchestration", "console", "demo", "cli"),
]
PURE = [
    "errors",
    "config",
    "statistics",
    "ledger",
    "evaluation",
    "runtime.files",
    "runtime.budget",
    "runtime.environment",
    "data.features",
    "data.reference",
    "data.split",
    "training.models",
    "training.loop",
    "training.bundle",
    "serving.protocol",
    "serving.routing",
    "serving.rollout.comparison",
    "serving.breaker",
    "serving.rollout.guards",
    "serving.rollout.slice_guard",
    "serving.rollout.slice_losses",
    "serving.slice_counter",
    "serving.slicing",
    "serving.rollout.evidence",
    "serving.rollout.disagreement",
    "serving.rollout.shadow_book",
    "serving.rollout.transition",
    "serving.rollout.state",
    "serving.rollout.record",
    "serving.http.parse",
    "serving.rollout.plan",
    "serving.rollout.sizing",
    "serving.rollout.capacity",
    "monitoring.channels",
    "monitoring.labels",
    "monitoring.estimation",
    "monitoring.policy",
    "monitoring.monitor",
    "monitoring.handover",
    "monitoring.alarms",
    "monitoring.notices",
    "orchestration.batch_plan",
    "orchestration.batch_rows",
    "monitoring.comparison",
    "monitoring.column_comparison",
    "monitoring.history",
    "monitoring.latency",
]


def imported_names(file: Path) -> set[str]:
    """Every absolute module that a file imports, at whatever depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
    return names


def files_of(module: str) -> list[Path]:
    path = PACKAGE.joinpath(*module.split("."))
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def upward_imports(layer: str, names: set[str]) -> set[str]:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    return {name for name in names if name.startswith("ray_mlops.") and name.split(".")[1] not in allowed}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_only_itself_and_lower_layers(layer: str) -> None:
    for file in files_of(layer):
        assert not upward_imports(layer, imported_names(file)), f"{file} imports a higher layer"


@pytest.mark.parametrize("module", PURE)
def test_pure_module_does_not_import_ray(module: str) -> None:
    for file in files_of(module):
        ours = {name for name in imported_names(file) if name.split(".")[0] == "ray"}
        assert not ours, f"{file} imports {ours}"


def test_upward_import_is_found() -> None:
    assert upward_imports("data", {"ray_mlops.serving.app", "ray_mlops.errors", "os"}) == {"ray_mlops.serving.app"}


def test_every_package_has_a_layer() -> None:
    found = {p.stem for p in PACKAGE.iterdir() if (p.suffix == ".py" or (p / "__init__.py").exists())}
    assert found - {"__init__", "configs"} <= set(LAYERS)
