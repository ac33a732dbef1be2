"""A real process that speaks the worker's protocol and, by a row's prompt, dies, hangs or fails. It needs no torch.

For tests of the supervisor alone; the real worker has tests of its own, and the end-to-end test runs both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from inpaint_ops.config import SideProduct
from inpaint_ops.device import Lease
from inpaint_ops.errors import DeviceBusyError, DeviceLostError
from inpaint_ops.protocol import (
    Begun,
    Bye,
    Done,
    End,
    Failed,
    Fatal,
    Flush,
    Item,
    Phase,
    Ready,
    Step,
    Warn,
    dump,
    parse_command,
    unit_name,
)
from inpaint_ops.records import (
    Batch,
    ColdStart,
    DeviceInfo,
    ErrorInfo,
    LedgerEntry,
    Memory,
    Model,
    ModelIdentity,
    Timings,
    WorkerInfo,
    now,
)
from inpaint_ops.worker import die_with_parent

MEMORY = Memory(peak_allocated=1, peak_reserved=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events-fd", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--started", type=float)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--journal", type=Path, help="one line for each worker started and each row painted")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    events = os.fdopen(arguments.events_fd, "w")

    def say(message: Model) -> None:
        events.write(dump(message))
        events.flush()

    def note(**words: object) -> None:
        if arguments.journal:
            with arguments.journal.open("a") as journal:
                journal.write(json.dumps({"pid": os.getpid(), **words}) + "\n")

    note(started=True, environment=sorted(os.environ))
    held: list[Item] = []
    ledger = (LedgerEntry(name="scripted", requested="on", effective="on", matches=True),)

    def paint() -> None:
        while held:
            batch = [held.pop(0) for _ in range(min(arguments.batch, len(held)))]
            say(Begun(rows=tuple(item.row for item in batch), stage="paint"))
            for item in batch:
                note(begun=item.row)
                try:
                    _misbehave(item.prompt, arguments.journal or Path(), unit_name(item.row))
                except DeviceLostError as error:
                    say(Fatal(error=ErrorInfo.of(error, "device")))
                    sys.exit(3)
                if item.prompt == "out of memory":
                    say(Warn(message="8 rows at once did not fit the memory: 4 from here on", fault="out_of_memory"))
                say(Step(step=1, steps=1))
            for item in batch:
                _finish(item, len(batch), say)
                note(row=item.row)

    for line in sys.stdin:
        command = parse_command(line)
        match command:
            case Item():
                held.append(command)
                if len(held) >= arguments.batch:
                    paint()
            case Flush():
                paint()
            case End():
                paint()
                say(Bye(ledger=ledger, cold_start=ColdStart(), busy=0.1, painted=1, peak_memory=MEMORY))
                return
            case _:
                note(prompts=command.prompts, scheduler=command.scheduler)
                if command.model == "no-such-model":
                    error = ErrorInfo(
                        type="ModelError", stage="worker", message="no such model: pull it", permanent=True
                    )
                    say(Fatal(error=error))
                    sys.exit(3)
                if command.model == "two-devices":
                    _lease_one_of_two(arguments.journal.with_name("leases"), say)
                if command.model == "dies-at-once":
                    os.kill(os.getpid(), signal.SIGKILL)
                say(Phase(name="load"))
                if command.model == "hangs-while-loading":
                    time.sleep(3600)
                say(
                    Ready(
                        worker=WorkerInfo(pid=os.getpid(), host="test", device="cpu", started_at=now()),
                        device=DeviceInfo(kind="cuda", name="NVIDIA L4", uuid="GPU-aaaa1111")
                        if command.model == "on-a-card"
                        else DeviceInfo(kind="cpu", name="test", uuid=device_of(command.model)),
                        model=ModelIdentity(name=command.model, random_weights=True),
                        tuning={},
                        ledger=ledger,
                        cold_start=ColdStart(),
                        versions={},
                        native_size=64,
                        batch_size=arguments.batch,
                    )
                )


_LEASES: list[Lease] = []
"""Held until the process ends."""


def _lease_one_of_two(folder: Path, say: Callable[[Model], None]) -> None:
    try:
        _LEASES.append(Lease.acquire(["one", "other"], folder, timeout=0.1))
    except DeviceBusyError as error:
        say(Fatal(error=ErrorInfo.of(error, "device")))
        sys.exit(3)


def device_of(model: str) -> str:
    """Each worker has a device of its own, but where the machine is to have but one."""
    return "GPU-alone" if model == "one-device" else f"GPU-{os.getpid()}"


def _misbehave(prompt: str, journal: Path, name: str) -> None:
    match prompt:
        case "SIGKILL" | "SIGSEGV":
            os.kill(os.getpid(), getattr(signal, prompt))
        case "SIGKILL once" if not (died := Path.cwd().parent / "died").exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case _ if prompt.startswith("meet "):  # as many workers as it says are painting at the same time
            while len({json.loads(line)["pid"] for line in _begun(journal)}) < int(prompt.removeprefix("meet ")):
                time.sleep(0.01)
        case _ if prompt == f"SIGKILL at {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        case _ if prompt == f"SIGKILL once at {name}" and not (died := Path.cwd().parent / "died").exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case _ if prompt == f"hang at {name}":
            time.sleep(3600)
        case "hang":
            time.sleep(3600)
        case "lost":
            raise DeviceLostError("the device failed: CUDA error: an illegal memory access was encountered")
        case "slow":
            while not journal.with_name("drained").exists():  # the supervisor has been told to stop
                time.sleep(0.01)
        case "exit":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(9)


def whole_lines(journal: Path) -> list[str]:
    """Its lines, but for one that is being written: a reader may see the half of a write."""
    return journal.read_text().split("\n")[:-1]


def _begun(journal: Path) -> list[str]:
    return [line for line in whole_lines(journal) if '"begun"' in line]


def png(row: int) -> bytes:
    """A whole PNG file of 2x1 gray pixels, another one for each row."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HH", row % 65536, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def webp(width: int, height: int) -> bytes:
    """The header of a WebP file (VP8X) of that size."""
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, 0) + (width - 1).to_bytes(3, "little")
    body += (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _thumbnails(item: Item) -> tuple[tuple[int, ...], str]:
    """What a prompt that begins with "thumbnail" leaves beside the output, and what it says of it."""
    small = Path(item.output).with_name("thumbnail-256")
    match item.prompt:
        case "thumbnail: both":
            small.write_bytes(webp(200, 100))
            small.with_name("thumbnail-1600").write_bytes(webp(1600, 800))
            return (256, 1600), ""
        case "thumbnail: missing":
            return (256,), ""
        case "thumbnail: png":
            small.write_bytes(png(1))
        case "thumbnail: large":
            small.write_bytes(webp(257, 100))
        case "thumbnail: heavy":
            small.write_bytes(webp(200, 100) + bytes(2**18))
        case "thumbnail: link":
            small.symlink_to(item.image)
        case "thumbnail: other size":
            small.with_name("thumbnail-999").write_bytes(webp(200, 100))
            return (999,), ""
        case "thumbnail: failed":
            return (), "MemoryError: no room"
        case _:
            return (), ""
    return (256,), ""


def _side_products(item: Item) -> tuple[tuple[SideProduct, ...], str]:
    """What a prompt that begins with "beside" leaves beside the output, and what it says of it."""
    if not item.prompt.startswith("beside"):
        return (), ""
    folder, small, size = Path(item.output).parent, png(item.row), struct.Struct(">II").pack
    for kind, data in (("patch", small), ("mask", small), ("preview", webp(200, 100))):
        (folder / f"side-product-{kind}").write_bytes(data)
    match item.prompt:
        case "beside: a mask that is webp":
            (folder / "side-product-mask").write_bytes(webp(2, 1))
        case "beside: a mask of another size":
            (folder / "side-product-mask").write_bytes(small.replace(size(2, 1), size(1, 2)))
        case "beside: a patch that is larger":
            (folder / "side-product-patch").write_bytes(small.replace(size(2, 1), size(3, 1)))
        case "beside: a preview that is larger":
            (folder / "side-product-preview").write_bytes(webp(1700, 100))
        case "beside: a preview that is heavy":
            (folder / "side-product-preview").write_bytes(webp(200, 100) + bytes(2**22))
        case "beside: no mask":
            (folder / "side-product-mask").unlink()
        case "beside: a mask that is a link":
            (folder / "side-product-mask").unlink()
            (folder / "side-product-mask").symlink_to(item.image)
        case "beside: no more room":
            return ("patch", "mask"), "preview: MemoryError: no room"
    return ("patch", "mask", "preview"), ""


def _finish(item: Item, size: int, say: object) -> None:
    moment = now()
    if item.prompt in ("fail", f"fail at {unit_name(item.row)}"):
        error = ErrorInfo(type="ImageError", stage="decode", message="this row is bad", permanent=True)
        say(Failed(row=item.row, error=error, started_at=moment, finished_at=moment))  # type: ignore[operator]
        return
    data = png(item.row)
    Path(item.output).write_bytes(data)
    sizes, problem = _thumbnails(item)
    kinds, missing = _side_products(item)
    say(  # type: ignore[operator]
        Done(
            row=item.row,
            output=item.output,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            width=2,
            height=1,
            format="png",
            media_type="image/png",
            extension=".png",
            steps=item.steps,
            working_size=(64, 64),
            batch=Batch(id="1", size=size),
            timings=Timings(denoise=0.1),
            log=tuple(item.prompt.removeprefix("log: ").split("|")) if item.prompt.startswith("log: ") else (),
            memory=MEMORY,
            thumbnail_sizes=sizes,
            thumbnail_problem=problem,
            side_product_kinds=kinds,
            side_product_problem=missing,
            started_at=moment,
            finished_at=moment,
        )
    )


if __name__ == "__main__":
    main()
