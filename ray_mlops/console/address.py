"""Which page a path means, and the links between pages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from ray_mlops.errors import NotFoundError

MODEL_PAGES = {
    "rollout": "Rollout",
    "drift": "Drift",
    "performance": "Performance",
    "lineage": "Lineage",
}
"""Pages of one model, with their titles, in the order of the tabs."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a path means."""

    page: str
    """`overview`, `ledger`, `event`, or one of ``MODEL_PAGES``."""
    model: str | None = None
    """None: the path names none."""
    argument: str = ""
    """The prediction or the event that is asked for."""


def resolve(path: str) -> Address:
    """Find the page of a path below ``/console``. Pages of a model may leave the model out where there is one only.

    Raises:
        NotFoundError: There is no such page.

    Example:
        >>> resolve("/models/flights/lineage/p-1")
        Address(page='lineage', model='flights', argument='p-1')
    """
    parts = [part for part in path.split("/") if part]
    model = None
    if parts[:1] == ["models"] and len(parts) > 1:
        model, parts = parts[1], parts[2:]
    match parts:
        case []:
            return Address("overview", model)
        case ["ledger"] if model is None:
            return Address("ledger")
        case ["ledger", number] if model is None:
            return Address("event", argument=number)
        case [page] if page in MODEL_PAGES:
            return Address(page, model)
        case ["lineage", prediction]:
            return Address("lineage", model, prediction)
    raise NotFoundError(f"there is no page {path!r}", "console")


@dataclass(frozen=True, slots=True)
class Links:
    """Makes links that work wherever the console is mounted, and that keep the choice about refreshing."""

    base: str
    """Path at which the console is mounted, without a slash at the end."""
    is_still: bool = False
    """Whether pages are not to refresh by themselves."""

    def to(self, /, *parts: str, **query: object) -> str:
        """Write a link; arguments that are empty or None are left out.

        Example:
            >>> Links("/console", is_still=True).to("models", "a b", page=2)
            '/console/models/a%20b?page=2&refresh=off'
        """
        given = {name: value for name, value in query.items() if value not in (None, "")}
        if self.is_still:
            given.setdefault("refresh", "off")
        path = "/".join((self.base, *(quote(part, safe="") for part in parts))) or "/"
        return f"{path}?{urlencode(given)}" if given else path

    def turned(self) -> "Links":
        """The same links with the other choice."""
        return Links(self.base, not self.is_still)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page that exists."""

    models: tuple[str, ...]
    """Every model there is."""
    model: str = ""
    """The one that the page is about; empty for pages of all."""
    argument: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
