"""Every error that the package raises, in one tree.

    RayMLOpsError
    ├── ConfigError (ValueError)            the user's configuration file
    ├── StoreError (RuntimeError)           the place where files and databases live
    ├── ClusterError (RuntimeError)         starting, joining or stopping Ray
    │   └── ResourceError                   asked for more than the cluster has
    ├── DeadlineError (TimeoutError)        a wait that did not end in time
    ├── LedgerError (RuntimeError)
    │   ├── LedgerConflictError             another writer was first
    │   └── LedgerCorruptError              the hash chain does not add up
    ├── DataError (ValueError)
    │   ├── SourceError                     rows could not be read
    │   ├── SnapshotError                   a snapshot is missing or has changed
    │   ├── ContractError                   rows break the declared contract
    │   └── FeatureError                    a column cannot be turned into features
    ├── TrainingError (RuntimeError)
    ├── BundleError (ValueError)            a model bundle is damaged or not trusted
    ├── EvaluationError (ValueError)
    ├── GateRefusedError (RuntimeError)     the candidate did not pass
    ├── ModelNotFoundError (LookupError)    no such model, version or alias
    ├── RegistryError (RuntimeError)
    ├── RequestError (ValueError)           the client's mistake (HTTP 4xx)
    │   ├── PayloadTooLargeError            413
    │   ├── RequestTimeoutError             408
    │   ├── UnauthorizedError               401
    │   ├── ForbiddenError                  403
    │   └── NotFoundError                   404
    ├── OverloadError (RuntimeError)        try again later (HTTP 503)
    ├── RolloutError (RuntimeError)         a transition that the state does not allow
    └── MonitoringError (RuntimeError)

Every error takes the same three arguments, all of which reach ``Exception.args``, so that it
survives pickling: Ray rebuilds an exception from its arguments on the other side of a process.
"""


class RayMLOpsError(Exception):
    """Say what is wrong, where, and what to do next.

    Args:
        problem: What is wrong: what was got and what was expected.
        where: The place: a dotted config path, a file, a column, a row. Empty when there is none.
        remedy: What to do next. Empty when there is nothing to do.

    Example:
        >>> print(ConfigError("unknown key 'lerning_rate'", "training", "did you mean 'learning_rate'?"))
        training: unknown key 'lerning_rate'; did you mean 'learning_rate'?
    """

    def __init__(self, problem: str, where: str = "", remedy: str = "") -> None:
        super().__init__(problem, where, remedy)
        self.problem = problem
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{self.problem}{advice}"

    def __reduce__(self) -> tuple[type["RayMLOpsError"], tuple[str, str, str]]:
        return type(self), (self.problem, self.where, self.remedy)


class ConfigError(RayMLOpsError, ValueError):
    """The configuration file cannot be read or is wrong."""


class StoreError(RayMLOpsError, RuntimeError):
    """The store cannot be read or written, or does not fit the cluster."""


class ClusterError(RayMLOpsError, RuntimeError):
    """A Ray cluster could not be started, joined or stopped."""


class ResourceError(ClusterError):
    """More was asked for than the cluster has; says what was asked and what was free."""


class DeadlineError(RayMLOpsError, TimeoutError):
    """A wait did not end before its deadline."""


class LedgerError(RayMLOpsError, RuntimeError):
    """The ledger could not be read or written."""


class LedgerConflictError(LedgerError):
    """Another writer appended to the stream first; read it again and decide anew."""


class LedgerCorruptError(LedgerError):
    """The hash chain does not add up: an event was changed or removed."""


class DataError(RayMLOpsError, ValueError):
    """Something is wrong with the rows."""


class SourceError(DataError):
    """The source is missing, empty or unreadable."""


class SnapshotError(DataError):
    """A snapshot is missing, or its files are no longer what they were."""


class ContractError(DataError):
    """The rows break the declared data contract."""


class FeatureError(DataError):
    """A column cannot be turned into features."""


class TrainingError(RayMLOpsError, RuntimeError):
    """Training failed, or cannot start."""


class BundleError(RayMLOpsError, ValueError):
    """A model bundle is missing, damaged, too new, or names code that is not trusted."""


class EvaluationError(RayMLOpsError, ValueError):
    """A metric or a report cannot be computed from these rows."""


class GateRefusedError(RayMLOpsError, RuntimeError):
    """The candidate did not pass the gate."""


class ModelNotFoundError(RayMLOpsError, LookupError):
    """No such model, version or alias."""


class RegistryError(RayMLOpsError, RuntimeError):
    """The model registry could not be read or written."""


class RequestError(RayMLOpsError, ValueError):
    """The client's mistake; answered with ``status``."""

    status = 400


class PayloadTooLargeError(RequestError):
    """The body, or the number of rows, is over the limit."""

    status = 413


class RequestTimeoutError(RequestError):
    """The client took too long to send its body."""

    status = 408


class UnauthorizedError(RequestError):
    """No token, or a token that nobody knows."""

    status = 401


class ForbiddenError(RequestError):
    """The token does not have the role that this endpoint asks for."""

    status = 403


class NotFoundError(RequestError):
    """No such path, model, version or prediction."""

    status = 404


class OverloadError(RayMLOpsError, RuntimeError):
    """The service is overloaded; try again after ``Retry-After`` (HTTP 503)."""

    status = 503


class RolloutError(RayMLOpsError, RuntimeError):
    """The rollout's state does not allow this, or another rollout is in the way."""


class MonitoringError(RayMLOpsError, RuntimeError):
    """The monitor cannot do what was asked."""
