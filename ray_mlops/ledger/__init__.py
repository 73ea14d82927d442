"""What happened and why: an append-only, hash-chained event log on SQLite or PostgreSQL."""

from ray_mlops.ledger.event import ChainReport, LedgerEvent
from ray_mlops.ledger.folds import (
    aliases_in_force,
    approvals,
    current_routes,
    deployed_config,
    fold,
    registered_versions,
)
from ray_mlops.ledger.ledger import Ledger

__all__ = [
    "ChainReport",
    "Ledger",
    "LedgerEvent",
    "aliases_in_force",
    "approvals",
    "current_routes",
    "deployed_config",
    "fold",
    "registered_versions",
]
