"""A bundle's files: written so that a reader sees all of them or no bundle, read only if they are what they were."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from ray_mlops.errors import BundleError, StoreError
from ray_mlops.runtime.files import Files

MANIFEST = "bundle.json"
PROVENANCE = "provenance.json"
VERIFIED = ("weights.safetensors", "profile.json", "parity.parquet", "MLmodel")
"""Files that a bundle must have, each with its hash in ``bundle.json``."""

_HASH = re.compile(r"[0-9a-f]{32}")
_REMEDY = "restore the file, or train again"


def write_bundle(files: Files, path: str, contents: Mapping[str, bytes], unhashed: Mapping[str, bytes]) -> None:
    """Write a bundle's directory, the manifest last; keep one that is whole already.

    Args:
        files: The store.
        path: The directory.
        contents: Every hashed file and the manifest, by name.
        unhashed: Files that do not count; written only with a new bundle.
    """
    if _is_whole(files, path, contents):
        return
    for name, content in {**contents, **unhashed}.items():
        if name != MANIFEST:
            files.write(f"{path}/{name}", content)
    files.write(f"{path}/{MANIFEST}", contents[MANIFEST])


def read_verified(uri: str) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """Read a bundle's directory.

    Returns:
        The verified files by name, the content of ``bundle.json``, and the provenance (empty where there is none).

    Raises:
        BundleError: A file is missing or is not what it was; names it.
    """
    files = Files(uri)
    manifest = _read_json(files, MANIFEST)
    _check_name(files)
    hashes = manifest.get("files")
    if not isinstance(hashes, dict) or set(hashes) != set(VERIFIED):
        raise BundleError(f"bundle.json must list the hashes of {', '.join(VERIFIED)}", files.uri(MANIFEST))
    contents = {}
    for name in VERIFIED:
        contents[name] = _read(files, name)
        if hashlib.sha256(contents[name]).hexdigest() != hashes[name]:
            raise BundleError("is damaged: its content is not what bundle.json says", files.uri(name), _REMEDY)
    return contents, manifest, _read_json(files, PROVENANCE) if files.exists(PROVENANCE) else {}


def bundle_hash(manifest: bytes) -> str:
    """Hash of a bundle, from the bytes of its ``bundle.json``; 32 hexadecimal digits."""
    return hashlib.sha256(manifest).hexdigest()[:32]


def _check_name(files: Files) -> None:
    """A directory that is named by a hash (as in the store) must hold the bundle of that hash."""
    name = files.root.rpartition("/")[2]
    if _HASH.fullmatch(name) and bundle_hash(_read(files, MANIFEST)) != name:
        raise BundleError("is damaged: the directory is named by another hash", files.uri(MANIFEST), _REMEDY)


def _is_whole(files: Files, path: str, contents: Mapping[str, bytes]) -> bool:
    if not files.exists(f"{path}/{MANIFEST}"):
        return False
    names = set(contents)
    return all(files.exists(f"{path}/{name}") and files.read(f"{path}/{name}") == contents[name] for name in names)


def _read(files: Files, name: str) -> bytes:
    if not files.exists(name):
        raise BundleError("is missing", files.uri(name), "is this the directory of a whole bundle?")
    try:
        return files.read(name)
    except StoreError as error:
        raise BundleError(f"cannot be read: {error.problem}", files.uri(name), _REMEDY) from error


def _read_json(files: Files, name: str) -> dict[str, Any]:
    text = _read(files, name)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BundleError(f"is not JSON: {error}", files.uri(name), _REMEDY) from error
    if not isinstance(content, dict):
        raise BundleError(f"expected an object, got a {type(content).__name__}", files.uri(name), _REMEDY)
    return content
