"""What a worker and its supervisor promise of the lines that they read from each other."""

from __future__ import annotations

import io
import queue
from typing import Any

from pydantic import ValidationError

from inpaint_ops.protocol import End, dump, parse_command, parse_event
from inpaint_ops.records import ErrorInfo
from inpaint_ops.worker import serving
from inpaint_ops.worker.work_loop import Garbage
from tests.fuzz.promises import check_line


class _Exit(BaseException):
    """Stands for the end of the process."""


def commands(data: bytes) -> None:
    """What comes to a worker's standard input."""

    def end(code: int) -> None:
        raise _Exit(code)

    said = []
    for line in io.BytesIO(data):
        try:
            command = parse_command(line)
        except ValidationError:
            break
        assert dump(parse_command(dump(command))) == dump(command), "a command is what its line says"
        assert dump(command).count("\n") == 1
        said.append(command)
        if isinstance(command, End):
            break
    else:
        said.append(_Exit)  # type: ignore[arg-type]
    inbox: Any = queue.SimpleQueue()
    system, serving.os._exit = serving.os._exit, end  # type: ignore[assignment]
    try:
        serving._read(io.BytesIO(data), inbox)
    except _Exit:
        inbox.put(_Exit)
    finally:
        serving.os._exit = system
    read = [inbox.get_nowait() for _ in range(inbox.qsize())]
    if read and isinstance(read[-1], Garbage):
        check_line(ErrorInfo.of(read.pop().error, "worker").message)
    assert read == said, "every command is taken, in order, up to End, garbage or the end of the pipe"


def events(data: bytes) -> None:
    """What comes out of a worker."""
    for line in io.BytesIO(data):
        try:
            event = parse_event(line)
        except ValidationError:
            continue
        assert dump(parse_event(dump(event))) == dump(event), "an event is what its line says"
        assert dump(event).count("\n") == 1
