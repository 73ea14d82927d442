"""A fire drill of a version that the registry knows, or of a bundle."""

from ray_mlops.config import ProjectConfig
from ray_mlops.monitoring.drill.run import Plan
from ray_mlops.orchestration.drill import Drilled, RowsFrom, drill_bundle
from ray_mlops.orchestration.fit import OnPhase, silent
from ray_mlops.orchestration.pipeline import find_version, load_bundle


def drill_version(
    config: ProjectConfig,
    model: str,
    plan: Plan,
    *,
    rows_from: RowsFrom = "auto",
    rows_per_window: int = 1000,
    record: bool = True,
    on_phase: OnPhase = silent,
) -> Drilled:
    """Drill a version, an alias or a bundle's path; see ``drill_bundle``.

    Raises:
        ModelNotFoundError: It is none of them.
        DataError: There are too few windows.
        MonitoringError: No fault can befall the plan's column.
    """
    version, address = find_version(config, model)
    return drill_bundle(
        config,
        version,
        load_bundle(address, config),
        plan,
        rows_from=rows_from,
        rows_per_window=rows_per_window,
        record=record,
        on_phase=on_phase,
    )
