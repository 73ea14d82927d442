"""What the demo's command refuses before it does anything."""

from pathlib import Path

import pytest

from ray_mlops.cli.demo import check_report_path, clear_store, demo_config
from ray_mlops.config import load_config
from ray_mlops.errors import ConfigError


def test_report_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        check_report_path(tmp_path)
    with pytest.raises(ConfigError, match="missing or not writable"):
        check_report_path(tmp_path / "absent" / "report.html")
    check_report_path(tmp_path / "report.html")


def test_only_a_store_is_emptied(tmp_path: Path) -> None:
    config = load_config(demo_config(), {"store.root": str(tmp_path / "store")})
    clear_store(config)  # there is none
    root = tmp_path / "store"
    root.mkdir()
    (root / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a store"):
        clear_store(config)
    (root / "ledger.db").touch()
    (root / "ledger.db-wal").touch()
    (root / "snapshots" / "a").mkdir(parents=True)
    clear_store(config)
    assert [entry.name for entry in root.iterdir()] == ["thesis.tex"]


def test_remote_store_is_not_emptied() -> None:
    config = load_config(demo_config(), {"store.root": "s3://bucket/store", "store.database": "postgresql://h/d"})
    with pytest.raises(ConfigError, match="remote"):
        clear_store(config)
