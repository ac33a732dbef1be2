"""Are the weights the ones that were published? Each file's SHA-256 against the one that is known, once per change.

Known are the hub's own (its cache names a large file by its SHA-256) and what a `weights.sha256` in the model's folder
says, in sha256sum's form; our random models have one. A flipped bit in a weight file is no error to any library: it
paints other pictures. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inpaint_ops.errors import ModelError, UnsafePathError
from inpaint_ops.machine.private_folder import read_bounded, replace_file, trusted_folder

KNOWN = "weights.sha256"
"""The file in a model's folder that says what its weight files hash to."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 8 * 2**20
_MAX_NOTE_BYTES = 2**20


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    found = hashlib.sha256()
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def write_known(folder: Path) -> None:
    """Note the SHA-256 of every safetensors file below `folder`."""
    lines = [f"{sha256(path)}  {path.relative_to(folder)}\n" for path in sorted(folder.rglob("*.safetensors"))]
    (folder / KNOWN).write_text("".join(lines), encoding="utf-8")


def check_digests(folder: Path, files: Iterable[str], notes: Path) -> None:
    """Check those of `files` (relative to `folder`) whose SHA-256 is known.

    What was found right is noted in the folder `notes`, with the file's size and times, and not read again until they
    change: a model is read once through for it. Notes that another user could have written are not believed. Raises
    ModelError that names the file and the cure.
    """
    known = _known(folder, files)
    with contextlib.suppress(OSError, UnsafePathError):
        notes = trusted_folder(notes)
    note = notes / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]}.json"
    seen = _read(note)
    states = {name: _state(folder / name) for name in known}
    unseen = [name for name in known if seen.get(name) != [known[name], *states[name]]]
    with ThreadPoolExecutor(4, "sha256") as pool:
        found = dict(zip(unseen, pool.map(lambda name: sha256(folder / name), unseen), strict=True))
    for name, value in found.items():
        if value != known[name]:
            raise ModelError(
                f"{folder / name} is damaged (its SHA-256 is not the published one): fetch the model again with "
                "`inpaint-ops models pull`, which replaces what is damaged"
            )
    if unseen:
        with contextlib.suppress(OSError, UnsafePathError):  # a cache that may only be read is read again
            trusted_folder(notes)
            fresh = {name: [known[name], *states[name]] for name in known}
            replace_file(note, json.dumps(seen | fresh).encode())


def file_digest(path: Path, notes: Path) -> str:
    """The SHA-256 of the one file `path`, compared with the one that is known, where one is.

    Known are those of `check_digests`, and what a file `<path>.sha256` beside it says. What was found is noted in the
    folder `notes` with the file's size and times, and not read again until they change. Raises ModelError that names
    the file and the cure.
    """
    with contextlib.suppress(OSError, UnsafePathError):
        notes = trusted_folder(notes)
    note = notes / f"{hashlib.sha256(f'file {path.resolve()}'.encode()).hexdigest()[:32]}.json"
    seen = _read(note).get("file")
    state = _state(path)
    if isinstance(seen, list) and seen[1:] == state and _SHA256.fullmatch(str(seen[0])):
        found = str(seen[0])
    else:
        found = sha256(path)
        if _state(path) != state:
            raise ModelError(f"{path} is being written: wait until it is whole")
        with contextlib.suppress(OSError, UnsafePathError):  # a cache that may only be read: the file is read again
            trusted_folder(notes)
            replace_file(note, json.dumps({"file": [found, *state]}).encode())
    known = _known(path.parent, [path.name]).get(path.name) or _beside(path)
    if known is not None and found != known:
        raise ModelError(f"{path} is damaged: its SHA-256 is {found}, and {known} was published; fetch it again")
    return found


def _beside(path: Path) -> str | None:
    """What `<path>.sha256` says, in sha256sum's form or as the digest alone. Raises ModelError where it has none."""
    beside = path.with_name(path.name + ".sha256")
    if not beside.is_file():
        return None
    words = beside.read_text(encoding="utf-8", errors="replace")[:_MAX_NOTE_BYTES].lower().split()
    if not words or not _SHA256.fullmatch(words[0]):
        raise ModelError(f"{beside} holds no SHA-256: write it as sha256sum does, or delete the file")
    return words[0]


def _known(folder: Path, files: Iterable[str]) -> dict[str, str]:
    listed = {}
    if (folder / KNOWN).is_file():
        for line in (folder / KNOWN).read_text(encoding="utf-8").splitlines():
            value, _, name = line.partition("  ")
            listed[name] = value
    found = {}
    for name in files:
        blob = (folder / name).resolve().name  # the hub's cache links to blobs/<SHA-256>
        if name in listed or _SHA256.fullmatch(blob):
            found[name] = listed.get(name, blob)
    return found


def _state(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ino]


def _read(note: Path) -> dict[str, object]:
    try:
        trusted_folder(note.parent, make=False)
        kept = json.loads(read_bounded(note, _MAX_NOTE_BYTES, owners=(0,)))
    except (OSError, ValueError, RecursionError, UnsafePathError):
        return {}
    return kept if isinstance(kept, dict) else {}
