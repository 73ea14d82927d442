"""What is put into the environment exists in the installed Ray, is private to a store, and keeps the user's wishes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_mlops.config import ClusterConfig, StoreConfig
from ray_mlops.errors import ClusterError
from ray_mlops.runtime import environment as env
from ray_mlops.runtime.ports import ClusterPorts

PORTS = ClusterPorts.of_block(0)
SOURCES = {
    "RAY_SERVE_": "serve/_private/constants.py",
    "RAY_TRAIN_": "train/v2/_internal/constants.py",
    "RAY_CHDIR_": "train/constants.py",
    "RAY_DATA_PARQUET_": "data/_internal/datasource_v2/formats/parquet/footer_file_indexer.py",
    "RAY_USAGE_": "_common/usage/usage_constants.py",
    "RAY_DEDUP_": "_private/ray_constants.py",
    "RAY_ADDRESS": "_private/ray_constants.py",
    "RAY_AUTH_MODE": "_private/authentication/authentication_token_setup.py",
    "RAY_AUTH_TOKEN_PATH": "_private/runtime_env/image_uri.py",
    "DASHBOARD_METRIC_PORT": "dashboard/consts.py",
}
IN_BINARIES = {
    "RAY_gcs_storage": "gcs/gcs_server",
    "RAY_gcs_storage_path": "gcs/gcs_server",
    "RAY_worker_maximum_startup_concurrency": "raylet/raylet",
}


def environment_of(tmp_path: Path, *, haproxy: bool = True, **inherited: str) -> dict[str, str]:
    store = StoreConfig(root=str(tmp_path))
    return env.cluster_environment(ClusterConfig(), PORTS, store, haproxy=haproxy, inherited=inherited)


def ray_directory() -> Path:
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def test_every_name_is_read_by_the_installed_ray(tmp_path: Path) -> None:
    texts = {file: (ray_directory() / file).read_text(encoding="utf-8") for file in set(SOURCES.values())}
    for name in set(environment_of(tmp_path)) - {"PYTHONPATH"}:
        if name in IN_BINARIES:
            binary = (ray_directory() / "core/src/ray" / IN_BINARIES[name]).read_bytes()
            assert name.removeprefix("RAY_").encode() in binary, name
            continue
        file = next(file for prefix, file in SOURCES.items() if name.startswith(prefix))
        assert f'"{name}"' in texts[file], f"{name} is not in {file}"


def test_two_stores_share_no_path(tmp_path: Path) -> None:
    first, second = environment_of(tmp_path / "a"), environment_of(tmp_path / "b")
    paths = {name for name, value in first.items() if "/" in value} - {"PYTHONPATH"}
    assert len(paths) >= 8
    assert not {first[name] for name in paths} & {second[name] for name in paths}


def test_haproxy_socket_path_fits_a_node_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/a/temporary/directory/with/a/very/long/name")
    socket = Path(environment_of(tmp_path)["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    assert len(str(socket.parent / ("f" * 56) / socket.name)) <= 97


def test_users_setting_stays_but_paths_do_not(tmp_path: Path) -> None:
    mine = {"RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "9", "RAY_SERVE_HAPROXY_STATS_PORT": "8404"}
    chosen = environment_of(tmp_path, **mine)
    assert chosen["RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"] == "9"
    assert chosen["RAY_SERVE_HAPROXY_STATS_PORT"] == str(PORTS.haproxy_stats)


def test_without_haproxy_serve_keeps_its_own_proxy(tmp_path: Path) -> None:
    chosen = environment_of(tmp_path, haproxy=False)
    assert chosen["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert chosen["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"
    assert not any("HAPROXY" in name for name in chosen)


def test_token_file_only_with_token(tmp_path: Path) -> None:
    store = StoreConfig(root=str(tmp_path))
    without = env.cluster_environment(ClusterConfig(auth="disabled"), PORTS, store, haproxy=True)
    assert without["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN_PATH" not in without
    assert environment_of(tmp_path)["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "cluster" / "token")


def test_package_is_importable_for_workers_and_the_users_path_stays(tmp_path: Path) -> None:
    parts = environment_of(tmp_path, PYTHONPATH="/mine")["PYTHONPATH"].split(os.pathsep)
    assert (Path(parts[0]) / "ray_mlops").is_dir()
    assert parts[1:] == ["/mine"]


def test_head_inherits_nothing_of_another_cluster(tmp_path: Path) -> None:
    inherited = {"RAY_ADDRESS": "other:1", "RAY_AUTH_TOKEN": "secret", env.CLUSTER_ID: "other", "HOME": "/home/me"}
    head = env.head_environment(inherited, environment_of(tmp_path), "mine")
    assert head["RAY_ADDRESS"] == f"{env.LOOPBACK_NODE}:{PORTS.gcs}"
    assert head[env.CLUSTER_ID] == "mine"
    assert head["HOME"] == "/home/me"
    assert "RAY_AUTH_TOKEN" not in head


def test_driver_is_not_marked_as_part_of_the_cluster(tmp_path: Path) -> None:
    head = env.head_environment({}, environment_of(tmp_path), "mine")
    driver = env.driver_environment(head)
    assert env.CLUSTER_ID not in driver
    assert "RAY_gcs_storage_path" not in driver
    assert driver["RAY_AUTH_TOKEN_PATH"]
    assert driver["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_haproxy_wrapper_binds_statistics_and_metrics_to_loopback_only(tmp_path: Path) -> None:
    config = tmp_path / "cfg"
    lines = [f"    bind :{PORTS.haproxy_metrics}", f"  bind *:{PORTS.haproxy_stats}", "    bind *:8000"]
    config.write_text("\n".join(lines) + "\n")
    binary, script = tmp_path / "real binary", tmp_path / "wrapper"
    binary.write_text('#!/bin/sh\necho "got $*"\n')
    binary.chmod(0o700)
    script.write_text(env.haproxy_wrapper(str(binary), PORTS))
    script.chmod(0o700)
    done = subprocess.run([script, "-db", "-f", config, "-sf", "12"], capture_output=True, text=True, check=True)
    assert done.stdout == f"got -db -f {config} -sf 12\n"
    assert config.read_text().splitlines() == [
        f"    bind 127.0.0.1:{PORTS.haproxy_metrics}",
        f"  bind 127.0.0.1:{PORTS.haproxy_stats}",
        "    bind *:8000",
    ]


def test_haproxy_wrapper_matches_rays_template() -> None:
    text = (ray_directory() / "serve/_private/haproxy_templates.py").read_text(encoding="utf-8")
    assert "    bind :{{ config.metrics_port }}\n" in text
    assert "  bind *:{{ config.stats_port }}\n" in text
    assert text.count("\n    bind ") + text.count("\n  bind ") == 4  # those two, and the frontends


def test_ingress_host_refuses_what_haproxy_cannot_reach() -> None:
    with pytest.raises(ClusterError, match=r"serving\.host"):
        env.ingress_host("10.0.0.7", "10.0.0.7", haproxy=True)


def test_uses_haproxy_follows_the_config_and_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not env.uses_haproxy(ClusterConfig(haproxy="off"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not env.uses_haproxy(ClusterConfig(haproxy="auto"))
    with pytest.raises(ClusterError, match="not installed"):
        env.uses_haproxy(ClusterConfig(haproxy="on"))


def test_applied_environment_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RM_TEST_OLD", "before")
    monkeypatch.delenv("RM_TEST_NEW", raising=False)
    applied = env.AppliedEnvironment()
    applied.apply({"RM_TEST_OLD": "1", "RM_TEST_NEW": "1"})
    applied.apply({"RM_TEST_OLD": "2"})
    assert os.environ["RM_TEST_OLD"] == "2"
    applied.restore()
    assert os.environ["RM_TEST_OLD"] == "before"
    assert "RM_TEST_NEW" not in os.environ


def test_importing_the_runtime_does_not_import_ray() -> None:
    code = (
        "import sys, ray_mlops.runtime.cluster, ray_mlops.runtime.doctor, ray_mlops.runtime.budget; "
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
