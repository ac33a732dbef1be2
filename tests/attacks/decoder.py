"""The host of small pictures with a decoder that does what its file says: `python -m tests.attacks.decoder`.

Where the working folder has the FIFOs `gate` and `begun`, `wait` says its process id to `begun` and waits for a byte of
`gate`.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from inpaint_ops.errors import ImageError
from inpaint_ops.previews import Job, host
from inpaint_ops.previews.messages import MAX_REPLY

JPEG = b"\xff\xd8\xff"
GATE, BEGUN = (os.open(name, os.O_RDWR) if Path(name).exists() else -1 for name in ("gate", "begun"))


def make(job: Job, files: Sequence[bytes]) -> bytes:
    """What the first word of the file says."""
    word = files[0].split(b" ")[0].decode()
    if word == "spin":
        while True:
            pass
    if word == "hungry":
        return bytes(2**40)
    if word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "odd":
        os.kill(os.getpid(), signal.SIGRTMIN + 5)
    if word == "shout":
        return JPEG + bytes(MAX_REPLY)
    if word == "lie":
        return b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    if word == "refuse":
        raise ImageError("is refused")
    if word == "wait":
        os.write(BEGUN, struct.pack("i", os.getpid()))
        os.read(GATE, 1)
    if word == "look":
        return JPEG + _seen().encode()
    return JPEG + files[0]


def _seen() -> str:
    """What can be reached from where decoders are: names of what can be, and numbers of open descriptors."""
    seen = [f"fd {number}" for number in range(64) if _is_open(number)]
    for path in ("/etc/passwd", "/proc/self/environ", "/tmp"):
        try:
            os.close(os.open(path, os.O_RDONLY))
            seen.append(path)
        except OSError:
            pass
    try:
        socket.socket().close()
        seen.append("socket")
    except OSError:
        pass
    return "\n".join([*seen, *(f"{name}={value}" for name, value in os.environ.items())])


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


host.make = make

if __name__ == "__main__":
    host.main()
