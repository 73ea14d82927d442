"""Tokens and roles."""

import base64
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ray_mlops.errors import ForbiddenError, StoreError, UnauthorizedError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.auth import ROLES, Authenticator, load_tokens

TOKENS: Any = {role: f"{role}-token" for role in ROLES}


def bearer(token: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {token}".encode()}


@pytest.mark.parametrize("role", ["predict", "label", "read"])
def test_open_gateway_asks_only_operators_for_a_token(role: Any) -> None:
    gate = Authenticator(TOKENS, "open")
    gate.require(role, {})
    with pytest.raises(UnauthorizedError, match="role 'operate'"):
        gate.require("operate", {})


@pytest.mark.parametrize("role", ROLES)
def test_operate_implies_every_role_and_nothing_else_does(role: Any) -> None:
    gate = Authenticator(TOKENS, "token")
    gate.require(role, bearer(f"{role}-token"))
    gate.require(role, bearer("operate-token"))
    for other in set(ROLES) - {role, "operate"}:
        with pytest.raises(ForbiddenError):
            gate.require(role, bearer(f"{other}-token"))


@pytest.mark.parametrize("header", [b"Bearer wrong", b"Bearer ", b"", b"operate-token", b"Bearer operate-token x"])
def test_wrong_tokens_are_refused(header: bytes) -> None:
    with pytest.raises(UnauthorizedError):
        Authenticator(TOKENS, "token").require("operate", {b"authorization": header})


def test_empty_token_opens_nothing() -> None:
    with pytest.raises(UnauthorizedError):
        Authenticator({"operate": ""}, "token").require("operate", bearer(""))


def test_basic_password_reads_but_never_operates() -> None:
    def basic(password: str) -> dict[bytes, bytes]:
        return {b"authorization": b"Basic " + base64.b64encode(f"me:{password}".encode())}

    gate = Authenticator(TOKENS, "token")
    gate.require("read", basic("read-token"))
    for role in ("predict", "label", "operate"):
        with pytest.raises(UnauthorizedError):
            gate.require(role, basic("operate-token"))
    with pytest.raises(UnauthorizedError):
        gate.require("read", {b"authorization": b"Basic !!!"})


def test_tokens_are_made_once_and_private(tmp_path: Path) -> None:
    first, second = load_tokens(Files(str(tmp_path))), load_tokens(Files(str(tmp_path)))
    assert first == second
    assert set(first) == set(ROLES)
    assert len(set(first.values())) == len(ROLES)
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"operate": "x"}'])
def test_damaged_token_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokens.json").write_bytes(content)
    with pytest.raises(StoreError, match="delete it"):
        load_tokens(Files(str(tmp_path)))


def test_of_several_writers_one_wins(tmp_path: Path) -> None:
    contents: list[bytes] = []

    def create(index: int) -> None:
        contents.append(Files(str(tmp_path)).create("secret", str(index).encode()))

    threads = [threading.Thread(target=create, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(contents)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left"):
        Files(str(tmp_path)).create("secret", b"x")
    assert list(tmp_path.iterdir()) == []
