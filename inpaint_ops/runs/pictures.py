"""The files below a prefix, for a manifest of them, links in folders included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import Location
from inpaint_ops.storage import ObjectInfo, Storage


def pictures_below(storage: Storage, root: Location, *, recursive: bool) -> tuple[list[ObjectInfo], list[str]]:
    """The files below a prefix, and a line for each that cannot be in a manifest.

    Raises ConfigError if there is no such folder, or nothing below the prefix; StorageError, ForbiddenLocationError.
    """
    if root.bucket is None and not Path(root.key).is_dir():
        raise ConfigError(f"there is no folder {root}")
    found: list[ObjectInfo] = []
    refused: list[str] = []
    for info in storage.list(root, direct=not recursive):
        if not _is_text(info.location.key):
            refused.append(f"a file name that is not UTF-8: {info.location.key!r}: rename it")
        else:
            found.append(info)
    seen = {info.location.key for info in found}
    for path in _links(Path(root.key), recursive=recursive) if root.bucket is None else ():
        if str(path) in seen or not _is_text(str(path)):
            continue
        target = os.path.realpath(path)
        if path.is_dir():
            refused.append(f"a link to a folder: {path}: it is not followed, so give {target!r} as IMAGES or MASKS")
        elif path.is_file() and storage.may_read(str(path)):
            found.append(storage.stat(str(path)))
        else:
            both = os.path.commonpath([path, target])
            refused.append(f"a link to outside what may be read: {path}: copy the file, or add --allow {both!r}")
    if not found and not refused:
        raise ConfigError(f"there is nothing below {root}")
    return found, refused


def _links(root: Path, *, recursive: bool) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        yield from (path for name in (*folders, *names) if (path := Path(folder, name)).is_symlink())
        if not recursive:
            return


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
