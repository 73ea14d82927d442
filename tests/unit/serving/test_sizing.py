"""How many replicas a share of traffic asks for, and where none of them fit."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_mlops.config import CandidateConfig, build_config
from ray_mlops.runtime.files import Files
from ray_mlops.serving.rollout.load import FILES_OF_EACH, measure_load
from ray_mlops.serving.rollout.sizing import Load, actor_resources, explain_shortage, plan_replicas
from ray_mlops.serving.serve_apps import actor_options

AUTO = CandidateConfig()
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("weight", "champions", "load", "replicas"),
    [
        (0.05, 1, None, 1),
        (0.05, 40, None, 2),
        (0.1, 30, None, 3),  # 0.1 * 30 is a little more than 3 as a float
        (0.5, 5, None, 3),
        (1.0, 4, None, 4),
        (0.5, 1, Load(100.0, 0.001, 0.001), 1),
        (0.5, 4, Load(100.0, 0.02, 0.02), 2),  # 1 busy of 2
        (0.5, 4, Load(100.0, 0.02, 0.06), 6),  # three times as slow: 3 busy of 6
        (0.5, 2, Load(1e6, 0.02, 0.02), 2),  # predicted together: no more than keeps the champion busy
        (0.5, 4, Load(0.0, 0.0, 0.0), 2),
    ],
)
def test_replicas_follow_the_share_and_the_load(
    weight: float, champions: int, load: Load | None, replicas: int
) -> None:
    plan = plan_replicas(weight, AUTO, champions, load)
    assert plan.replicas == replicas, plan.reason
    assert plan.reason.startswith(f"{replicas} replica")


def test_number_of_the_user_stands() -> None:
    plan = plan_replicas(0.9, CandidateConfig(num_replicas=3), 40, Load(1e3, 0.1, 0.1))
    assert (plan.replicas, plan.reason) == (3, "3 replicas: rollout.candidate.num_replicas")


def test_more_traffic_never_asks_for_fewer() -> None:
    load = Load(200.0, 0.01, 0.03)
    sizes = [plan_replicas(weight / 100, AUTO, 7, load).replicas for weight in range(1, 101)]
    assert sizes == sorted(sizes)


def test_shortage_names_what_was_asked_and_what_is_free() -> None:
    each = actor_resources(CandidateConfig(cpus=2.0, gpus=0.5, memory_mb=512), 0.1)
    text = explain_shortage(4, 2, each, {"CPU": 1.5, "memory": 100 * 2**20}, {"CPU": 8.0, "GPU": 1.0, "memory": 2**31})
    assert text == (
        "asked for 4 replicas of 2 CPU and 0.5 GPU and 512 MiB each, 2 run; "
        "free: 1.5 of 8 CPU, 0 of 1 GPU, 100 of 2048 MiB"
    )


def test_shares_of_gpus_and_the_environment_reach_the_actor() -> None:
    content = {"name": "m", "data": {"source": {"path": "a.csv"}, "task": "binary", "target": "y"}}
    plain = build_config(content, {"serving.cpus_per_replica": 0.3})
    assert actor_options(plain) == {"num_cpus": 0.3}
    own = {"cpus": 2, "gpus": 0.5, "memory_mb": 64, "runtime_env": {"env_vars": {"A": "1"}}}
    options = actor_options(build_config(content, {"rollout.candidate": own}))
    environment = options.pop("runtime_env")
    assert options == {"num_cpus": 2.0, "num_gpus": 0.5, "memory": 64.0 * 2**20}
    assert environment["env_vars"] == {"A": "1"}


def write(files: Files, replica: str, sequence: int, first_s: float, **columns: Any) -> None:
    """Ten requests of two rows each, 100 ms apart."""
    names = [f"{replica}-{sequence}-{i}" for i in range(10) for _ in range(2)]
    times = [START + timedelta(seconds=first_s + 0.1 * i) for i in range(10) for _ in range(2)]
    values = {"arm": ["champion"] * 20, "version": ["1"] * 20, "model_time_us": [2000] * 20, **columns}
    table = pa.table({"request_id": names, "arrival_time": pa.array(times, pa.timestamp("us", tz="UTC")), **values})
    files.write_table(f"predictions/m/day=2026-01-01/{replica}-{sequence:08d}.parquet", table)


def test_load_is_the_sum_over_replicas_that_have_traffic(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    assert measure_load(files, "m", "2") is None
    for sequence in range(FILES_OF_EACH + 4):
        write(files, "a", sequence, 1000.0 + sequence)
        write(files, "b", sequence, 1000.0 + sequence)
        write(files, "dead", sequence, 100.0 + sequence)
    load = measure_load(files, "m", "2")
    assert load is not None
    assert load.requests_per_s == pytest.approx(20.0, rel=0.02)
    assert (load.champion_s, load.model_s) == pytest.approx((0.002, 0.002))
    write(files, "a", 99, 1013.0, arm=["candidate"] * 20, version=["2"] * 20, model_time_us=[9000] * 20)
    own = measure_load(files, "m", "2")
    assert own is not None
    assert (own.champion_s, own.model_s) == pytest.approx((0.002, 0.009))


def test_load_of_a_few_requests_says_nothing(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    write(files, "a", 1, 0.0)
    assert measure_load(files, "m", "1") is None


def test_rows_that_were_thinned_count_for_those_that_were_left_out(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    for sequence in range(FILES_OF_EACH):
        write(files, "a", sequence, float(sequence), sample_weight=[4.0] * 20)
    load = measure_load(files, "m", "2")
    assert load is not None
    assert load.requests_per_s == pytest.approx(40.0, rel=0.02)


def test_load_is_measured_from_flushes_of_the_newest_days_alone(tmp_path: Path) -> None:
    class CountedFiles(Files):
        def read(self, path: str) -> bytes:
            asked.append(path)
            return super().read(path)

    asked: list[str] = []
    files = CountedFiles(str(tmp_path))
    for sequence in range(FILES_OF_EACH):
        write(files, "a", sequence, float(sequence))
    for day in ("2025-12-30", "2025-12-31"):
        files.write(f"predictions/m/day={day}/old-00000001.parquet", files.read(next(files.names("predictions/m"))))
    files.write("predictions/m/day=2026-01-01/compacted-00ff.parquet", b"large")
    asked.clear()
    assert measure_load(files, "m", "2") is not None
    assert len(asked) == FILES_OF_EACH + 1
    assert not any("2025-12-30" in path or "compacted" in path for path in asked)
