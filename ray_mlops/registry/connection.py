"""Connections to MLflow, quiet and with our errors."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client
from sqlalchemy.exc import SQLAlchemyError

from ray_mlops.errors import LedgerError, ModelNotFoundError, RegistryError
from ray_mlops.ledger.database import normalize_url, printable_url

_SETTING = "store.mlflow_tracking_uri"


def quiet_mlflow() -> None:
    """Turn off MLflow's usage reports and its messages about migrations; an explicit choice stands.

    Sets ``MLFLOW_DISABLE_TELEMETRY`` in this process and its children unless it is set already.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    reread: Callable[[], None] = set_telemetry_client  # the variable was read when mlflow was imported
    reread()
    for name in ("mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client of a tracking server or database; creates the tables of a new database.

    Raises:
        RegistryError: It cannot be opened.
    """
    quiet_mlflow()
    uri = normalize_tracking_uri(tracking_uri)
    if is_database(uri):
        _probe(uri)
    with explained(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def normalize_tracking_uri(uri: str) -> str:
    """Return the URI with an absolute SQLite path and our PostgreSQL driver; others are left alone.

    Raises:
        RegistryError: It is not a URI, or of a database that lives in memory.
    """
    if "://" not in uri:
        raise RegistryError(f"{uri!r} is not a URI", _SETTING, "write sqlite:///PATH, postgresql://... or http://...")
    if not is_database(uri):
        return uri
    try:
        return normalize_url(uri)
    except LedgerError as error:
        raise RegistryError(error.problem, _SETTING, error.remedy) from error


def is_database(uri: str) -> bool:
    """Whether MLflow opens this URI as a database (rather than talking to a server)."""
    return uri.partition("://")[0].partition("+")[0] in ("sqlite", "postgres", "postgresql")


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn MLflow's errors into ours."""
    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise ModelNotFoundError(error.message, where, "list what there is with 'ray-mlops versions'") from error
        raise RegistryError(f"MLflow failed: {error.message}", where, f"check '{_SETTING}'") from error
    except SQLAlchemyError as error:
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        raise RegistryError(f"MLflow's database failed: {text}", where, "check free space and permissions") from error
    except ImportError as error:
        remedy = "install the package that MLflow needs for this kind of storage"
        raise RegistryError(f"MLflow cannot be used: {error}", where, remedy) from error


def _probe(uri: str) -> None:
    """Connect once. MLflow itself would try a database that is not there for minutes."""
    url = sa.make_url(uri)
    options = {} if url.get_backend_name() == "sqlite" else {"connect_timeout": 10}
    try:
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        sa.inspect(sa.create_engine(url, poolclass=sa.NullPool, connect_args=options)).get_table_names()
    except (SQLAlchemyError, OSError, ImportError) as error:
        text = str(getattr(error, "orig", None) or error).strip()
        raise RegistryError(f"cannot be opened: {text}", printable_url(uri), f"correct '{_SETTING}'") from error
