"""Files that are whole or absent, and folders that introduce themselves.

A file is written to a temporary name beside its target, fsynced and renamed, so a reader never
meets half of one. A folder carries a ``manifest.json`` with the SHA-256 of every other file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract.errors import ArtifactError

MANIFEST = "manifest.json"


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success fsync it and rename it into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        fsync(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, target)
        fsync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; on success it takes the place of ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                fsync(path)
        temporary.chmod(0o755)
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, target: Path) -> None:
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        os.replace(target, old / target.name)
        os.replace(temporary, target)
        shutil.rmtree(old)
    else:
        os.replace(temporary, target)
    fsync(target.parent)


def fsync(path: Path) -> None:
    """Have a file, or a folder's list of files, outlive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not whole JSON ({error}); make it again.") from error


def write_table(target: Path, table: pa.Table, row_group_size: int = 65_536) -> None:
    """Write an Arrow table as zstd Parquet, atomically."""
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=row_group_size)


def write_array(target: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as ``.npy``, atomically and never as a pickle."""
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file.

    Raises:
        ArtifactError: the file is missing, truncated, not Parquet, or lacks a column.
    """
    try:
        file = pq.ParquetFile(path)
        missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if missing:
            raise ArtifactError(f"{path} lacks {missing}; it has {file.schema_arrow.names}.")
        return file.read(columns=columns)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} is not a whole Parquet file: {error}") from error


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(folder: Path, kind: str, about: dict[str, Any]) -> None:
    """Write ``manifest.json``: ``kind``, ``about`` and the SHA-256 of every file in ``folder``."""
    files = {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    write_json(folder / MANIFEST, {"format": 1, "kind": kind, "about": about, "files": files})


def read_manifest(folder: Path, kind: str, *, verify: bool = True) -> dict[str, Any]:
    """Return the ``about`` part of a folder's manifest, having checked the folder against it.

    Raises:
        ArtifactError: no manifest, another kind or format, a file missing or changed.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise ArtifactError(f"{folder / MANIFEST} is not a manifest of format 1.")
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{folder} holds a {manifest.get('kind')!r}; expected a {kind!r}.")
    if verify:
        _verify_files(folder, manifest["files"])
    about = manifest["about"]
    if not isinstance(about, dict):
        raise ArtifactError(f"{folder / MANIFEST} has no description.")
    return about


def _verify_files(folder: Path, files: dict[str, str]) -> None:
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is named in the manifest but missing.")
        if sha256_file(path) != digest:
            raise ArtifactError(f"{path} does not match its hash in the manifest; it was changed.")
