"""What ships for Prometheus and Grafana: recording and alerting rules, and a dashboard, over ``ray_mlops_*`` metrics.

The metrics themselves are written by ``serving.exposition``, ``monitoring.exposition`` and
``monitoring.notices.exposition``; a test holds that every name and label used here is one of theirs.
"""

from importlib.resources import files


def read_rules() -> str:
    """Recording and alerting rules, YAML as ``rule_files`` of Prometheus takes it."""
    return files(__name__).joinpath("rules.yaml").read_text(encoding="utf-8")


def read_dashboard() -> str:
    """The dashboard, JSON as Grafana imports it."""
    return files(__name__).joinpath("dashboard.json").read_text(encoding="utf-8")
