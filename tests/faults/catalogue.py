"""The faults that the command alone can meet: of processes, storage, disks, memory, devices, weights and clocks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil

from tests.faults.job import POISON
from tests.faults.trial import Fault, Trial
from tests.support import fault_proxy, nvml

PUTS = ("before image", "after image", "before record", "after record")
WORKING = ("painting", *PUTS)
"""The moments after a worker is ready."""

REQUESTS = (
    ("GET", "/in/"), ("PUT", "/images/"), ("PUT", "/records/"), ("PUT", "/shards/"), ("GET", "list-type=2"),
)  # fmt: skip
"""What a run asks of its store: any of these may be the one that breaks."""

FLIPS = ("PUT", "/images/"), ("PUT", "/records/")


# -- processes ----------------------------------------------------------------------------------------------------


def _worker_gets(number: signal.Signals, *moments: str) -> Callable[[Trial], None]:
    def inject(trial: Trial) -> None:
        trial.at_a_moment(lambda: trial.signal_worker(number), *([moments] if moments else []))

    return inject


def _command_gets(number: signal.Signals) -> Callable[[Trial], None]:
    return lambda trial: trial.at_a_moment(lambda: trial.signal_command(number))


def _poison(trial: Trial) -> None:
    row = next(row for row, prompt in trial.job.prompts.items() if prompt == POISON)
    (trial.home.hooks / "poison").write_text(POISON)
    trial.failed = {row: "WorkerDiedError"}
    trial.on_line("ready after", lambda: trial.strike(f"row {row}") and None)


def _drained(trial: Trial) -> None:
    """SIGTERM: the command ends by itself, having recorded what it finished, and says so by its exit code."""
    trial.run_as_scheduled()
    if trial.codes[0] not in (143, 0, 3, -signal.SIGTERM):
        trial.findings.add(f"told to stop, the command ended with {trial.codes[0]}")


def _guard_killed(trial: Trial) -> None:
    def strike() -> None:
        if (guard := trial.guard()) is not None:
            with suppress(psutil.NoSuchProcess):
                guard.kill()

    trial.at_a_moment(strike)


def _warm_host_killed(trial: Trial) -> None:
    def strike() -> None:
        assert trial.host is not None
        trial.host.process.kill()
        trial.host.process.wait()

    trial.at_a_moment(strike)


# -- storage ------------------------------------------------------------------------------------------------------


def _requests(
    fault: fault_proxy.Fault, times: int, requests: tuple[tuple[str, str], ...] = REQUESTS, seconds: float = 0.1
) -> Callable[[Trial], None]:
    def inject(trial: Trial) -> None:
        method, path = trial.chance.choice(requests)
        rows = trial.job.rows if path in ("/in/", "/images/", "/records/") else 1
        nth = trial.chance.randint(1, rows)

        def seen() -> None:
            trial.strike(f"{method} {path} {nth}")

        trial.proxy.on(fault, method=method, path=path, nth=nth, times=times, seconds=seconds, before=seen)

    return inject


def _outage(seconds: float) -> Callable[[Trial], None]:
    def inject(trial: Trial) -> None:
        def down() -> None:
            trial.proxy.down = True
            threading.Timer(seconds, lambda: setattr(trial.proxy, "down", False)).start()

        trial.at_a_moment(down)

    return inject


def _latency(seconds: float) -> Callable[[Trial], None]:
    def inject(trial: Trial) -> None:
        trial.proxy.latency = seconds
        trial.strike("the whole run")

    return inject


def _expiring(trial: Trial) -> None:
    """The key in the credentials file expires, and the file has another from then on, as a sidecar renews it."""
    file = trial.home.path / "credentials"

    def write(access: str, secret: str) -> None:
        whole = file.with_suffix(".new")
        whole.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
        whole.replace(file)

    first = trial.environment.pop("AWS_ACCESS_KEY_ID"), trial.environment.pop("AWS_SECRET_ACCESS_KEY")
    write(*first)
    trial.environment["AWS_SHARED_CREDENTIALS_FILE"] = str(file)

    def expire() -> None:
        trial.proxy.expired.add(first[0])
        write(*trial.second_key)

    trial.at_a_moment(expire)


# -- disks, memory, devices ---------------------------------------------------------------------------------------


@cache
def _no_mounts() -> str:
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return "" if done.returncode == 0 else "a small disk needs the right to mount a tmpfs"


def _disk_full(trial: Trial) -> None:
    """The scratch folder is a disk of 2 MB that somebody else fills, for five seconds."""
    scratch = trial.home.scratch
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", scratch], check=True)
    trial.ending.append(lambda: subprocess.run(["umount", "--lazy", scratch], check=True) and None)
    filler = scratch / "somebody-elses"

    def fill() -> None:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        time.sleep(5)
        filler.unlink(missing_ok=True)

    somebody = threading.Thread(target=fill)
    trial.at_a_moment(somebody.start)
    trial.settling.append(lambda: somebody.join() if somebody.ident else None)


def _device(trial: Trial, **told: object) -> None:
    (trial.home.hooks / "device").write_text(json.dumps({"device": None, "after": 0, "fits": 0} | told))


def _device_memory(trial: Trial) -> None:
    """From some batch on no batch of two fits."""
    _device(trial, error="memory", after=trial.chance.randint(0, 2), fits=1)
    trial.on_line("ready after", lambda: trial.strike("painting") and None)


def _device_lost(trial: Trial) -> None:
    """One of two cards fails for good after some batches of its worker."""
    environment = nvml.install(trial.home.path / "driver", nvml.gpu("GPU-a") + nvml.gpu("GPU-b"), trial.environment)
    trial.environment.clear()
    trial.environment.update(environment)
    _device(trial, error="lost", device="GPU-a", after=trial.chance.randint(0, 2))
    trial.on_line("ready after", lambda: trial.strike("painting") and None)


_MEMORY = Path("/sys/fs/cgroup/memory")


def _memory_group(name: str) -> Path:
    """A new group of processes that can be given a limit of memory. Raises OSError where that is not ours to do."""
    group = _MEMORY / f"inpaint-ops-{os.getpid()}-{name}"
    group.mkdir()
    return group


@cache
def _no_memory_groups() -> str:
    with suppress(OSError):
        group = _memory_group("probe")
        can = (group / "memory.limit_in_bytes").exists()
        group.rmdir()
        if can:
            return ""
    return "a limit of memory needs a writable memory cgroup (version 1)"


def _host_memory(trial: Trial) -> None:
    """The kernel's out-of-memory killer ends the first worker, which may have less memory than its imports take."""
    group = _memory_group(trial.home.path.name)
    (group / "memory.limit_in_bytes").write_text(str(trial.chance.randint(32, 160) * 2**20))

    def squeeze() -> None:
        worker = trial.worker()
        if worker is not None and trial.strike("loading"):
            (group / "cgroup.procs").write_text(str(worker.pid))

    def look() -> None:
        group.rmdir()
        if not any("killed by SIGKILL" in line for line in trial.output):
            trial.findings.add("the kernel killed nobody")

    trial.on_line("imports:", squeeze)
    trial.ending.append(look)


# -- weights, clocks, manifests -----------------------------------------------------------------------------------


def _own_cache(trial: Trial) -> Path:
    """A model cache that only this trial has; its UNet's weight file."""
    own = trial.home.path / "cache"
    shutil.copytree(trial.environment["HF_HOME"], own)
    trial.environment["HF_HOME"] = str(own)
    return next(own.glob("random/tiny-random-*/unet/*.safetensors"))


def _cut_short(trial: Trial) -> None:
    weights = _own_cache(trial)
    os.truncate(weights, trial.chance.randint(1, weights.stat().st_size - 1))
    trial.strike("before the run")


def _flipped(trial: Trial) -> None:
    weights = _own_cache(trial)
    with weights.open("r+b") as file:
        file.seek(trial.chance.randrange(weights.stat().st_size // 2, weights.stat().st_size))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1 << trial.chance.randrange(8)]))
    trial.strike("before the run")


def _refused_then_pulled(trial: Trial) -> None:
    """Nothing is painted by damaged weights; after the cure that the one line names, the same command goes on."""
    if (code := trial.wait(trial.start())) != 2:
        trial.findings.add(f"damaged weights: the command ended with {code}")
    if not any("is damaged" in line and "fetch the model again" in line for line in trial.output):
        trial.findings.add("damaged weights: no line says what is damaged, and the cure")
    pull = [sys.executable, "-m", "inpaint_ops.cli", "models", "pull", "tiny-random"]
    subprocess.run(pull, env=trial.environment, cwd=trial.home.path, capture_output=True, check=True)
    trial.run_as_scheduled()


_FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


def no_faketime() -> str:
    """What another clock needs; empty where that is here."""
    return "" if _FAKETIME else "another clock needs libfaketime (Debian's package faketime)"


def clock_of(offset: Path) -> dict[str, str]:
    """The environment of a command whose clock of the day is off by what the file says: `+1200`, in seconds."""
    return {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # see hooks/sitecustomize.py
    }


def _clock(trial: Trial) -> None:
    """The command's clock jumps by twenty minutes, and is set right eight seconds later."""
    offset = trial.home.path / "clock"
    offset.write_text("+0\n")
    trial.environment |= clock_of(offset)
    jump = trial.chance.choice(("+1200\n", "-1200\n"))

    def strike() -> None:
        offset.write_text(jump)
        threading.Timer(8, lambda: offset.write_text("+0\n") and None).start()

    trial.at_a_moment(strike)


def _twice(trial: Trial) -> None:
    """The same run is started twice at once; each of the two ends by itself."""
    trial.strike("both from the start")
    other = trial.start()
    time.sleep(trial.chance.random() * 3)
    trial.run_as_scheduled()
    trial.wait(other)
    trial.painted_twice_is_fine = True


def _replaced(trial: Trial) -> None:
    """The manifest is another one while the run goes on: what was frozen is painted, and the other is refused."""
    line = json.dumps({"image": "1.png", "mask": "1-mask.png", "prompt": "another sofa"}) + "\n"
    trial.at_a_moment(lambda: trial.direct.put(trial.job.manifest, line.encode()) and None)


def _then_refused(trial: Trial) -> None:
    trial.run_as_scheduled()
    if (code := trial.wait(trial.start())) != 2 or not any("is of another manifest" in line for line in trial.output):
        trial.findings.add(f"a run of another manifest was not refused ({code})")


_SOON = {"INPAINT_STALL_TIMEOUT": "30"}
_DEATH = "tests/supervisor/test_supervisor.py::test_one_poison_row_never_stops_the_others"
_BODY = "tests/storage/test_storage_faults.py::TestReading::test_a_broken_body_is_read_again"
_ANSWER = "tests/storage/test_storage_faults.py::TestReading::test_a_request_without_an_answer_is_repeated"

FAULTS: tuple[Fault, ...] = (
    Fault("worker killed", "SIGKILL of the worker", _worker_gets(signal.SIGKILL)),
    Fault("worker crashed", "SIGSEGV of the worker", _worker_gets(signal.SIGSEGV), shown_by=_DEATH),
    Fault("worker frozen", "SIGSTOP of the worker", _worker_gets(signal.SIGSTOP, *WORKING), settings=_SOON, slow=True),
    Fault("poison row", "a row that always kills its worker is found and set aside", _poison, poison=3, slow=True,
          shown_by=_DEATH, own_host=True),
    Fault("supervisor killed", "SIGKILL of the worker's supervisor", _command_gets(signal.SIGKILL)),
    Fault("supervisor told to stop", "SIGTERM of the supervisor", _command_gets(signal.SIGTERM), _drained),
    Fault("warm host killed", "SIGKILL of the process that workers are forked from", _warm_host_killed, warm=True,
          own_host=True),
    Fault("guard killed", "SIGKILL of a forked worker's parent: the worker goes with it", _guard_killed, warm=True),
    Fault("500", "500 InternalError, three times", _requests(fault_proxy.Fault.INTERNAL, 3), shown_by=_ANSWER),
    Fault("503 SlowDown", "503 SlowDown, six times", _requests(fault_proxy.Fault.SLOW_DOWN, 6), shown_by=_ANSWER),
    Fault("reset before the body", "connections end unanswered", _requests(fault_proxy.Fault.DROP, 3),
          shown_by=_ANSWER),
    Fault("reset in the body", "half a body, then a reset", _requests(fault_proxy.Fault.RESET, 2, REQUESTS[:1]),
          shown_by=_BODY),
    Fault("stalled body", "half a body, then silence", _requests(fault_proxy.Fault.STALL, 1, REQUESTS[:1]), slow=True,
          shown_by=_BODY),
    Fault("truncated body", "half a body, an orderly end", _requests(fault_proxy.Fault.TRUNCATE, 2, REQUESTS[:1]),
          shown_by=_BODY),
    Fault("download flipped", "a byte arrives as another", _requests(fault_proxy.Fault.FLIP, 2, REQUESTS[:1])),
    Fault("upload flipped", "a byte is sent as another", _requests(fault_proxy.Fault.FLIP_SENT, 2, FLIPS)),
    Fault("lost reply", "a conditional put wins, unheard", _requests(fault_proxy.Fault.LOST_REPLY, 1, FLIPS)),
    Fault("outage", "no store for a minute", _outage(60), slow=True),
    Fault("50 ms", "every request takes 50 ms longer", _latency(0.05)),
    Fault("2 s", "every request takes 2 s longer", _latency(2.0), slow=True,
          shown_by="tests/faults/test_faults.py::test_every_promise_holds_after[50-ms,-forked]"),
    Fault("credentials expire", "403 ExpiredToken; new ones are there", _expiring),
    Fault("disk full", "no room in scratch for five seconds", _disk_full, lacking=_no_mounts),
    Fault("device out of memory", "no batch of two fits any more", _device_memory, own_host=True),
    Fault("host out of memory", "the kernel ends the worker", _host_memory, lacking=_no_memory_groups, own_host=True),
    Fault("device lost", "one of two cards fails for good", _device_lost, own_host=True),
    Fault("weights cut short", "half a weight file: refused, cured", _cut_short, _refused_then_pulled, slow=True,
          own_host=True),
    Fault("weights flipped", "a bit of a weight file: refused, cured", _flipped, _refused_then_pulled, slow=True,
          own_host=True),
    Fault("clock off", "20 minutes off, for eight seconds", _clock, lacking=no_faketime, own_host=True),
    Fault("two runs at once", "one run, started twice", lambda trial: None, _twice, slow=True),
    Fault("manifest replaced under a run", "another manifest, of the same name", _replaced, _then_refused),
)  # fmt: skip

_NOT_FORKED = ("host out of memory",)
"""A fork shares what its host has allocated, so that no limit hits it alone."""

FORKED: tuple[Fault, ...] = tuple(fault.forked() for fault in FAULTS if fault.name not in _NOT_FORKED)
"""The same with workers that are forked from a warm host."""

DEATHS = tuple(fault.name for fault in FAULTS if fault.name.startswith(("worker killed", "worker crashed", "super")))
"""Faults that end processes: what follows differs with how a worker was started."""


def _ways(fault: Fault) -> tuple[Fault, ...]:
    if fault.name in DEATHS:
        return fault, fault.forked()
    return (fault if fault.own_host else replace(fault.forked(), shown_by=fault.shown_by),)


TRIED: tuple[Fault, ...] = tuple(way for fault in FAULTS for way in _ways(fault))
"""What `make test` tries: workers are forked, which is quick, but where the fault changes what they import; deaths are
tried both ways. `make faults` tries all, each way.
"""
