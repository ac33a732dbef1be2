"""A real process that speaks the worker's protocol until a row says `evil`; then it attacks. Standard library alone.

    python hostile.py ATTACK LOOT --events-fd N ...

LOOT is a folder outside of every row's, with `secret.png`, a picture that is not the row's, and room for notes.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def png(width: int, height: int, shade: int) -> bytes:
    """A whole gray PNG file, of one shade (0 to 65535)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + struct.pack(">H", shade) * width) * height
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


class Liar:
    """Honest words, to which an attack adds its own."""

    def __init__(self, attack: str, loot: Path, events: int) -> None:
        self.attack, self.loot, self.events = attack, loot, events

    def raw(self, data: bytes, descriptor: int | None = None) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.events if descriptor is None else descriptor, rest) :]

    def say(self, **words: Any) -> None:
        self.raw(json.dumps(words).encode() + b"\n")

    def ready(self, **other: Any) -> None:
        worker = {"pid": 1, "host": "elsewhere", "device": "d", "started_at": now()}
        self.say(**{
            "kind": "ready", "worker": worker, "device": {"kind": "cpu", "name": "d"}, "tuning": {}, "ledger": [],
            "model": {"name": "m", "random_weights": True}, "cold_start": {}, "versions": {}, "native_size": 64,
            "batch_size": 1, **other,
        })  # fmt: skip

    def begun(self, row: int) -> None:
        self.say(kind="begun", rows=[row], stage="paint")

    def done(self, item: dict[str, Any], data: bytes, **lies: Any) -> None:
        self.say(**{
            "kind": "done", "row": item["row"], "output": item["output"], "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data), "width": 2, "height": 1, "format": "png", "media_type": "image/png",
            "extension": ".png", "steps": 1, "working_size": [64, 64], "batch": {"id": "b", "size": 1},
            "timings": {"denoise": 0.1}, "memory": {"peak_allocated": 1, "peak_reserved": 1},
            "started_at": now(), "finished_at": now(), **lies,
        })  # fmt: skip

    def paint(self, item: dict[str, Any]) -> None:
        data = png(2, 1, item["row"])
        with (self.loot / "seen").open("ab") as seen:
            seen.write(Path(item["image"]).read_bytes() + Path(item["mask"]).read_bytes())
        Path(item["output"]).write_bytes(data)
        self.done(item, data)


FILES: dict[str, Callable[[Path, Path], None]] = {}
"""What may lie at a row's output, by name: called with the output's path and the loot."""
EVENTS: dict[str, Callable[[Liar, dict[str, Any]], None]] = {}
"""What may be said, by name: called with the row's item once it is begun."""
LIES: dict[str, dict[str, Any]] = {
    "digest": {"sha256": "0" * 64},
    "bytes": {"bytes": 1},
    "width": {"width": 9},
    "height": {"height": 9},
    "format": {"format": "jpeg"},
    "media type": {"media_type": "text/html"},
    "extension": {"extension": ".html"},
    "extension with a path": {"extension": "/../../../evil.png"},
    "path outside": {"output": "/etc/passwd"},
    "path of the supervisor's": {"output": "/proc/self/environ"},
    "path with dots": {"output": "../0000001/output"},
}
"""Words of Done that do not fit the honest file that lies there."""


def file(attack: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    FILES[attack.__name__] = attack
    return attack


def event(attack: Callable[[Liar, dict[str, Any]], None]) -> Callable[[Liar, dict[str, Any]], None]:
    EVENTS[attack.__name__] = attack
    return attack


@file
def missing(output: Path, loot: Path) -> None:
    pass


@file
def symlink(output: Path, loot: Path) -> None:
    output.symlink_to(loot / "secret.png")


@file
def hard_link(output: Path, loot: Path) -> None:
    os.link(loot / "secret.png", output)


@file
def folder_that_is_a_link(output: Path, loot: Path) -> None:
    elsewhere = loot / "row"
    elsewhere.mkdir(exist_ok=True)
    shutil.copy(loot / "secret.png", elsewhere / output.name)
    shutil.rmtree(output.parent)
    output.parent.symlink_to(elsewhere)


@file
def link_to_another_row(output: Path, loot: Path) -> None:
    output.symlink_to("../0000001/output")


@file
def link_to_proc(output: Path, loot: Path) -> None:
    output.symlink_to("/proc/self/environ")


@file
def link_to_a_device(output: Path, loot: Path) -> None:
    output.symlink_to("/dev/zero")


@file
def fifo(output: Path, loot: Path) -> None:
    os.mkfifo(output)


@file
def unix_socket(output: Path, loot: Path) -> None:
    os.chdir(output.parent)
    socket.socket(socket.AF_UNIX).bind(output.name)


@file
def directory(output: Path, loot: Path) -> None:
    output.mkdir()


@file
def empty(output: Path, loot: Path) -> None:
    output.touch()


@file
def page(output: Path, loot: Path) -> None:
    output.write_text("<html><script>alert(1)</script></html>")


@file
def other_format(output: Path, loot: Path) -> None:
    output.write_bytes(b"\xff\xd8\xff\xc0\0\x0b\x08\0\x01\0\x02\x01\x01\x11\0\xff\xd9")


@file
def signature_alone(output: Path, loot: Path) -> None:
    output.write_bytes(b"\x89PNG\r\n\x1a\n")


@file
def other_size(output: Path, loot: Path) -> None:
    output.write_bytes(png(3, 3, 1))


@file
def pixels_beyond_count(output: Path, loot: Path) -> None:
    output.write_bytes(png(2, 1, 1).replace(struct.pack(">II", 2, 1), struct.pack(">II", 2**31 - 1, 2**31 - 1)))


@file
def sparse(output: Path, loot: Path) -> None:
    """A terabyte that takes no room."""
    output.write_bytes(png(2, 1, 1))
    os.truncate(output, 2**40)


@event
def done_twice(liar: Liar, item: dict[str, Any]) -> None:
    data = png(3, 3, 1)
    Path(item["output"]).write_bytes(data)  # refused as well, or the row would end well before the second word
    liar.done(item, data, width=3, height=3)
    liar.done(item, data, width=3, height=3)


@event
def ready_twice(liar: Liar, item: dict[str, Any]) -> None:
    liar.ready()


@event
def unknown_row_done(liar: Liar, item: dict[str, Any]) -> None:
    liar.done(item | {"row": 4711}, png(2, 1, 1))


@event
def unknown_row_failed(liar: Liar, item: dict[str, Any]) -> None:
    error = {"type": "ImageError", "stage": "decode", "message": "m", "permanent": True}
    liar.say(kind="failed", row=4711, error=error, started_at=now(), finished_at=now())


@event
def unknown_row_begun(liar: Liar, item: dict[str, Any]) -> None:
    liar.begun(4711)


@event
def goodbye_unasked(liar: Liar, item: dict[str, Any]) -> None:
    liar.say(kind="bye", ledger=[], cold_start={}, busy=1, painted=2, peak_memory=None)


@event
def fatal_of_a_permanent_kind(liar: Liar, item: dict[str, Any]) -> None:
    """The end of the whole shard, were it believed of a worker that has rows."""
    liar.say(kind="fatal", error={"type": "ModelError", "stage": "worker", "message": "m", "permanent": True})


@event
def naive_time(liar: Liar, item: dict[str, Any]) -> None:
    liar.done(item, png(2, 1, 1), started_at="2026-01-01T00:00:00")


@event
def time_out_of_range(liar: Liar, item: dict[str, Any]) -> None:
    liar.done(item, png(2, 1, 1), finished_at="9999-12-31T23:59:59-14:00")


@event
def not_a_number(liar: Liar, item: dict[str, Any]) -> None:
    liar.done(item, png(2, 1, 1), timings={"denoise": float("nan")})


@event
def infinity(liar: Liar, item: dict[str, Any]) -> None:
    liar.raw(b'{"kind":"step","step":1,"steps":1e400}\n')


@event
def negative(liar: Liar, item: dict[str, Any]) -> None:
    liar.done(item, png(2, 1, 1), timings={"denoise": -1.0})


@event
def negative_memory(liar: Liar, item: dict[str, Any]) -> None:
    liar.done(item, png(2, 1, 1), memory={"peak_allocated": -1, "peak_reserved": 1})


@event
def number_of_a_thousand_digits(liar: Liar, item: dict[str, Any]) -> None:
    liar.raw(b'{"kind":"step","step":1,"steps":' + b"9" * 1000 + b"}\n")


@event
def deep(liar: Liar, item: dict[str, Any]) -> None:
    liar.ready(tuning={"a": [[[[[[[[[[1]]]]]]]]]]})


@event
def many_values(liar: Liar, item: dict[str, Any]) -> None:
    liar.say(kind="begun", rows=[item["row"]] * 100_000, stage="paint")


@event
def garbage(liar: Liar, item: dict[str, Any]) -> None:
    liar.raw(bytes(range(256)) * 16 + b"\n")


@event
def unknown_kind(liar: Liar, item: dict[str, Any]) -> None:
    liar.say(kind="command", run="ls")


@event
def line_without_end(liar: Liar, item: dict[str, Any]) -> None:
    """400 MB, were they read."""
    for _ in range(400):
        liar.raw(b"x" * 10**6)


@event
def flood_of_steps(liar: Liar, item: dict[str, Any]) -> None:
    """A sign of life for ever."""
    while True:
        liar.raw(b'{"kind":"step","step":1,"steps":1}\n' * 1000)


@event
def flood_of_warnings(liar: Liar, item: dict[str, Any]) -> None:
    for number in range(10_000_000):
        liar.say(kind="warn", message=f"{number} " + "x" * 1000)


@event
def flood_on_standard_output(liar: Liar, item: dict[str, Any]) -> None:
    """300 MB, most of it without an end of line."""
    for _ in range(250):
        liar.raw(b"y" * 10**6, 1)
    for _ in range(50):
        liar.raw(b"line\n" * 200_000, 1)
    os._exit(9)


@event
def flood_of_lines(liar: Liar, item: dict[str, Any]) -> None:
    """A million lines of five bytes."""
    liar.raw(b"line\n" * 1_000_000, 1)
    os._exit(9)


@event
def forged_lines(liar: Liar, item: dict[str, Any]) -> None:
    os.write(1, b"\x1b[2J\x1b]0;title\x07before\rafter \xe2\x80\xae \xe2\x80\xa8 ERROR forged\n")
    liar.say(kind="phase", name="load\nERROR forged by a phase", detail="\x1b[2J\u2028")
    liar.say(kind="warn", message="w\nERROR forged by a warning\x1b[2J")
    os._exit(9)


@event
def detached_child(liar: Liar, item: dict[str, Any]) -> None:
    """It leaves the process group and keeps the pipes open, so that they never end."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True, pass_fds=[liar.events]
    )
    (liar.loot / "children").open("a").write(f"{child.pid}\n")
    os._exit(9)


@event
def tampering(liar: Liar, item: dict[str, Any]) -> None:
    """Other rows' files are here already, and writable."""
    for path in Path(item["image"]).parent.parent.glob("0*/*"):
        path.write_bytes(b"TAMPERED")
    os._exit(9)


@event
def look_at_root(liar: Liar, item: dict[str, Any]) -> None:
    """What is there that root alone may see."""
    said: dict[str, Any] = {"uid": os.getuid()}
    for name, folder in (("in", liar.loot.parent / "in"), ("root", Path("/root"))):
        try:
            said[name] = sorted(map(str, folder.iterdir()))
        except OSError as error:
            said[name] = type(error).__name__
    said["home"] = "own" if Path(os.environ["HOME"]).stat().st_uid == os.getuid() else "another's"
    with (liar.loot / "looked").open("a") as looked:
        looked.write(json.dumps(said) + "\n")
    os._exit(9)


@event
def rename_race(liar: Liar, item: dict[str, Any]) -> None:
    """The honest picture and links to the loot take turns under the same name while it is taken."""
    output = Path(item["output"])
    data = png(2, 1, item["row"])
    honest, link = output.with_name("honest"), output.with_name("link")

    def swap() -> None:
        while True:
            try:
                honest.write_bytes(data)
                honest.replace(output)
                link.symlink_to(liar.loot / "secret.png")
                link.replace(output)
                os.link(liar.loot / "secret.png", link)
                link.replace(output)
            except OSError:
                time.sleep(0)  # the row's folder is gone

    threading.Thread(target=swap, daemon=True).start()
    liar.done(item, data)


@event
def written_while_it_is_read(liar: Liar, item: dict[str, Any]) -> None:
    """Two pictures of one size take turns inside of one file; what is recorded must be what is stored."""
    output = Path(item["output"])
    first, second = png(2, 1, 1), png(2, 1, 2)
    assert len(first) == len(second)
    output.write_bytes(first)
    descriptor = os.open(output, os.O_WRONLY)

    def swap() -> None:
        while True:
            os.pwrite(descriptor, second, 0)
            os.pwrite(descriptor, first, 0)

    threading.Thread(target=swap, daemon=True).start()
    liar.done(item, first)


def main() -> None:
    liar = Liar(sys.argv[1], Path(sys.argv[2]), int(sys.argv[sys.argv.index("--events-fd") + 1]))
    sys.stdin.readline()
    if liar.attack == "done before ready":
        liar.done({"row": 1, "output": "o"}, b"")
    liar.ready(**{"device uuid": {"device": {"kind": "cuda", "name": "d", "uuid": "--help"}}}.get(liar.attack, {}))
    if liar.attack == "deaf":
        time.sleep(3600)
    for line in sys.stdin:
        command = json.loads(line)
        if command["kind"] == "end":
            liar.say(kind="bye", ledger=[], cold_start={}, busy=1, painted=2, peak_memory=None)
            return
        if command["kind"] != "item":
            continue
        liar.begun(command["row"])
        if command["prompt"] != "evil":
            liar.paint(command)
        elif liar.attack in FILES:
            FILES[liar.attack](Path(command["output"]), liar.loot)
            liar.done(command, png(2, 1, 1))
        elif liar.attack in LIES:
            data = png(2, 1, command["row"])
            Path(command["output"]).write_bytes(data)
            liar.done(command, data, **LIES[liar.attack])
        else:
            EVENTS[liar.attack](liar, command)


if __name__ == "__main__":
    main()
