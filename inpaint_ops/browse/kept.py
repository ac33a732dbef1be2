"""Lines that the pages keep between restarts, in a file that no other user of the machine can read or change."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from inpaint_ops.errors import InpaintOpsError
from inpaint_ops.machine.private_folder import open_file, private_folder, read_bounded, replace_file

log = logging.getLogger(__name__)

MAX_BYTES = 32 * 2**20
"""The largest size of the file: the newest lines are kept, about fifty thousand runs."""

MAX_LINE_BYTES = 65_536


class KeptLines:
    """A file of lines. Where it cannot be used safely, nothing is kept, and the log says why once."""

    def __init__(self, path: Path) -> None:
        self._path: Path | None = path
        try:
            self._path = private_folder(path.parent) / path.name
        except (OSError, InpaintOpsError) as error:
            self._disable(error)

    def lines(self) -> list[bytes]:
        """What is kept, oldest first, of the last `MAX_BYTES`. A file that is longer is cut down to these."""
        if self._path is None:
            return []
        try:
            data = read_bounded(self._path, MAX_BYTES, tail=True)
            cut = len(data) == MAX_BYTES
            if cut:
                data = data.partition(b"\n")[2]  # it may begin within a line
            found = [line for line in data.splitlines() if len(line) <= MAX_LINE_BYTES]
            if cut:
                replace_file(self._path, b"".join(line + b"\n" for line in found))
        except FileNotFoundError:
            return []
        except (OSError, InpaintOpsError) as error:
            self._disable(error)
            return []
        return found

    def add(self, line: str) -> None:
        """Keep a further line."""
        if self._path is None:
            return
        try:
            with open(open_file(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except (OSError, InpaintOpsError) as error:
            self._disable(error)

    def _disable(self, error: Exception) -> None:
        log.warning("the list of runs is not kept between restarts: %s", error)
        self._path = None
