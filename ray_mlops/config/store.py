"""Where things are kept, and the Ray cluster they run on."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ray_mlops.config.section import Duration, Section


def base_directory(here: Path) -> Path:
    """Where a relative root begins: here, except in a Ray job whose working directory was uploaded.

    Ray deletes that directory some time after the job, and a store must not go with it: there it begins at home.

    Example:
        >>> base_directory(Path("/srv/project"))
        PosixPath('/srv/project')
    """
    uploaded = {"runtime_resources", "working_dir_files"} <= set(here.parts)
    return Path.home() if uploaded else here


class RetentionConfig(Section):
    """How long ``ray-mlops gc`` keeps what nobody refers to any more."""

    predictions: Duration | None = None
    """Prediction log and labels older than this (in event time) are deleted; None keeps them."""
    checkpoints: Duration | None = None
    """Training checkpoints older than this (in arrival time) are deleted; None keeps them."""
    unused_bundles: Duration | None = None
    """Bundles that no registered version uses and that are older than this are deleted."""


class StoreConfig(Section):
    """One place for files, one database for decisions."""

    root: str = "./.ray_mlops"
    """A directory or an fsspec URI: snapshots, bundles, predictions, labels, checkpoints, reports. A relative one
    begins at the working directory; in a Ray job with an uploaded working directory, which Ray deletes, at home."""
    database: str | None = None
    """SQLAlchemy URL of the ledger; None means ``sqlite:///<root>/ledger.db``."""
    mlflow_tracking_uri: str | None = None
    """MLflow tracking and registry; None means ``sqlite:///<root>/mlflow.db``."""
    allow_local: bool = False
    """Say that a local root is a path shared by every node of a cluster of several nodes."""
    retention: RetentionConfig = RetentionConfig()

    @property
    def is_local(self) -> bool:
        """Whether the root is a directory of this machine."""
        return "://" not in self.root or self.root.startswith("file://")

    @property
    def local_root(self) -> Path:
        """The root as an absolute path; for a remote store, the local working directory beside it."""
        root = Path(self.root.removeprefix("file://") if self.is_local else ".ray_mlops")
        return base_directory(Path.cwd()) / root.expanduser()

    def anchored(self) -> "StoreConfig":
        """The same store with an absolute root: other processes have working directories of their own."""
        return self.model_copy(update={"root": str(self.local_root)}) if self.is_local else self

    @property
    def root_uri(self) -> str:
        """The root, absolute, without a trailing slash."""
        return str(self.local_root) if self.is_local else self.root.rstrip("/")

    @property
    def database_url(self) -> str:
        """The ledger's SQLAlchemy URL, absolute."""
        return self.database or f"sqlite:///{self.local_root / 'ledger.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry URI, absolute."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.local_root / 'mlflow.db'}"


class ClusterConfig(Section):
    """The Ray cluster that our own launchers start; one that exists already is joined as it is."""

    address: str | None = None
    """Join this cluster; None means ``RAY_ADDRESS``, else the cluster recorded in the store, else a new one."""
    num_cpus: PositiveInt | None = None
    """Logical CPUs of a head that we start; None means the machine's, and at least 4."""
    object_store_memory_mb: PositiveInt = 512
    """Shared memory for objects on a head that we start, in MiB."""
    dashboard_port: int = Field(0, ge=0, le=65535)
    """Port of Ray's dashboard and Jobs API on a head that we start; 0 picks a free one."""
    auth: Literal["token", "disabled"] = "token"
    """Ray's own authentication on a head that we start."""
    start_timeout_s: PositiveFloat = 90.0
    """How long a start may take before it is an error."""
    step_timeout_s: PositiveFloat = 900.0
    """Deadline of any single wait of a pipeline (a read, a fit, a search, a deployment)."""
    haproxy: Literal["auto", "on", "off"] = "auto"
    """Serve behind HAProxy: `auto` turns it on where its package is installed (Linux)."""
    training_cpus: NonNegativeFloat | None = None
    """CPUs that training may hold at once; None means what leaves Ray Data one whole CPU."""
