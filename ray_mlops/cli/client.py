"""The client that commands ask a running service with."""

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import UnauthorizedError
from ray_mlops.serving.client import Client


def open_client(config: ProjectConfig) -> Client:
    """A client of the running service, with the operator's token where this machine has it."""
    from ray_mlops.orchestration.addresses import service_address  # after parsing

    url, token = service_address(config)
    return Client(url, config.name, token)


def open_operator(config: ProjectConfig) -> Client:
    """The same for commands that need the operator's token.

    Raises:
        UnauthorizedError: This machine does not have it.
    """
    from ray_mlops.orchestration.addresses import service_address  # after parsing

    url, token = service_address(config)
    if token is None:
        problem = "there is no operator's token: the store has no tokens.json, which the first 'ray-mlops serve' writes"
        remedy = "run this where the service was started, with the same store.root"
        raise UnauthorizedError(problem, config.store.root_uri, remedy)
    return Client(url, config.name, token)
