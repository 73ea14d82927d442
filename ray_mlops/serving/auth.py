"""Who may do what: bearer tokens with roles, kept in one file of the store."""

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Literal

from ray_mlops.errors import ForbiddenError, StoreError, UnauthorizedError
from ray_mlops.runtime.files import Files

Role = Literal["predict", "label", "read", "operate"]
ROLES: tuple[Role, ...] = ("predict", "label", "read", "operate")
TOKENS_FILE = "tokens.json"


class Authenticator:
    """Decides whether a request may act in a role.

    Args:
        tokens: One token for each role. ``operate`` implies every other role.
        predict_auth: ``open`` lets everyone predict, label and read; ``token`` asks for a token.
            To operate, a token is always needed.

    Example:
        >>> gate = Authenticator({"operate": "secret"}, "open")
        >>> gate.require("read", {})
        >>> gate.require("operate", {b"authorization": b"Bearer secret"})
    """

    def __init__(self, tokens: Mapping[Role, str], predict_auth: Literal["open", "token"]) -> None:
        self._tokens = {role: token.encode() for role, token in tokens.items() if token}
        self._is_open = predict_auth == "open"

    def require(self, role: Role, headers: Mapping[bytes, bytes]) -> None:
        """Return if the request may act in this role.

        Raises:
            UnauthorizedError: There is no token, or nobody knows it.
            ForbiddenError: The token is for other roles.
        """
        if self._is_open and role != "operate":
            return
        presented = _bearer(headers)
        if presented is None and role == "read":
            presented = _basic_password(headers)
        if presented is None:
            remedy = f"send 'Authorization: Bearer TOKEN'; tokens are in {TOKENS_FILE} of the store"
            raise UnauthorizedError(f"this needs a token with the role {role!r}", "headers", remedy)
        granted = {known for known, token in self._tokens.items() if hmac.compare_digest(token, presented)}
        if not granted:
            raise UnauthorizedError("the token is not known", "headers")
        if role not in granted and "operate" not in granted:
            problem = f"the token has the role {min(granted)!r}, this needs {role!r}"
            raise ForbiddenError(problem, "headers")


def load_tokens(files: Files) -> dict[Role, str]:
    """Read the tokens of a store, creating them on first use (on a local disk with mode 0600).

    Args:
        files: The store.

    Raises:
        StoreError: The file cannot be written, or is not what this release writes.
    """
    fresh = json.dumps({role: secrets.token_urlsafe(32) for role in ROLES}, indent=2).encode()
    where = files.uri(TOKENS_FILE)
    try:
        tokens = json.loads(files.create(TOKENS_FILE, fresh))
    except ValueError as error:
        raise StoreError(f"is not JSON: {error}", where, "delete it to have new tokens made") from error
    if not isinstance(tokens, dict) or not all(isinstance(tokens.get(role), str) for role in ROLES):
        raise StoreError("lacks a token for some role", where, "delete it to have new tokens made")
    return {role: tokens[role] for role in ROLES}


def _bearer(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" and token.strip() else None


def _basic_password(headers: Mapping[bytes, bytes]) -> bytes | None:
    # Browsers can only send Basic; it opens pages, never commands, because they send it across sites too.
    scheme, _, content = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        _, separator, password = base64.b64decode(content.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return password if separator else None
