"""The real worker process, spoken to over its pipes as the supervisor does."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint_ops import worker
from inpaint_ops.device import Lease
from inpaint_ops.device.lease_files import own_folder
from inpaint_ops.errors import DeviceBusyError
from inpaint_ops.model import random_weights, recipes
from inpaint_ops.model.compiled import FOLDER
from inpaint_ops.protocol import (
    Begun,
    Bye,
    Done,
    End,
    Failed,
    Fatal,
    Flush,
    Phase,
    Ready,
    Step,
    dump,
    parse_event,
)
from tests.support.waiting import PATIENCE, wait_until
from tests.support.worker_talk import Talk, fork, job, picture, pixels, start

__all__ = ["fork", "start"]


def test_rows_of_many_kinds_in_one_life(start: Callable[..., Talk], tmp_path: Path) -> None:
    talk = start()
    talk.send(job(tmp_path, tuning_overrides={"batch_size": 2}))
    ready: Ready = talk.until(lambda: talk.all(Ready))[0]
    assert [phase.name for phase in talk.all(Phase)][:3] == ["imports", "lease", "load"]
    assert ready.worker.pid == talk.process.pid and ready.device.kind == "cpu"
    assert ready.model.random_weights and ready.native_size == 64 and ready.batch_size == 2
    assert {"python", "inpaint-ops", "torch", "diffusers", "transformers", "pillow"} <= set(ready.versions)
    assert ready.cold_start.imports > 0 and ready.cold_start.load > 0 and ready.cold_start.interpreter > 0
    with pytest.raises(DeviceBusyError, match=str(talk.process.pid)):
        Lease.acquire(["cpu-0"], tmp_path / own_folder().name, 0)

    same = [picture(tmp_path, row, (80, 80)) for row in (1, 2, 3)]
    other = [
        picture(tmp_path, 4, (150, 75), format="webp", guidance_scale=1.0),
        picture(tmp_path, 5, (40, 90), crop="auto", steps=4, strength=0.5),
        picture(tmp_path, 6, (64, 64), format="jpeg"),
    ]
    broken = [picture(tmp_path, row, (32, 32)) for row in (7, 8, 9, 10)]
    Path(broken[0].image).write_bytes(b"this is no image")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(broken[1].mask)
    Path(broken[2].image).unlink()
    broken[3] = broken[3].model_copy(update={"output": str(tmp_path / "nowhere" / "out")})
    talk.send(*same, *other[:1], *broken, Flush())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == 8)
    talk.send(*other[1:], End())
    bye: Bye = talk.until(lambda: talk.all(Bye))[0]
    assert talk.process.wait(PATIENCE) == 0
    talk.until(lambda: talk.closed)
    assert talk.said[-1] is bye

    done = {event.row: event for event in talk.all(Done)}
    assert sorted(done) == [1, 2, 3, 4, 5, 6]
    for item in [*same, *other]:
        event = done[item.row]
        source, mask, painted = pixels(item.image), pixels(item.mask), pixels(event.output)
        assert painted.shape == source.shape and (event.width, event.height) == (source.shape[1], source.shape[0])
        if item.format != "jpeg":
            assert np.array_equal(painted[mask == 0], source[mask == 0])
            assert not np.array_equal(painted[mask > 0], source[mask > 0])
        assert event.bytes == Path(event.output).stat().st_size and len(event.sha256) == 64
        assert all(seconds is not None for name, seconds in event.timings if name not in ("download", "upload"))
        assert event.memory.peak_allocated > 50e6 and event.started_at < event.finished_at
    assert (done[6].media_type, done[6].extension) == ("image/jpeg", ".jpg")
    assert {row: event.steps for row, event in done.items()} == {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 1}
    assert done[1].working_size == (64, 64) and done[4].working_size != (64, 64)
    assert sorted(done[row].batch.size for row in (1, 2, 3)) in ([1, 2, 2], [2, 2, 2])
    assert any(event.step == event.steps == 2 for event in talk.all(Step))

    failed = {event.row: event.error for event in talk.all(Failed)}
    assert {row: (error.type, error.stage) for row, error in failed.items()} == {
        7: ("ImageError", "decode"),
        8: ("MaskError", "decode"),
        9: ("FileNotFoundError", "decode"),
        10: ("FileNotFoundError", "encode"),
    }
    logs = {event.row: event.log for event in (*talk.all(Done), *talk.all(Failed)) if event.log}
    assert sorted(logs) == [9, 10], "what nobody expected; a refusal says all in its error"
    assert " ERROR inpaint_ops.worker.work_loop: row 9: decode failed" in logs[9][0]
    assert logs[9][1].startswith("FileNotFoundError: ")
    begun = [(row, event.stage) for event in talk.all(Begun) for row in event.rows]
    assert all((row, stage) in begun for row in done for stage in ("decode", "paint", "encode"))
    assert len(begun) == len(set(begun))

    (encoders,) = (entry for entry in bye.ledger if entry.name == "release_text_encoders")
    assert not encoders.matches and "not known beforehand" in encoders.reason
    (batch,) = (entry for entry in bye.ledger if entry.name == "batch_size")
    assert batch.matches and batch.effective == "2"
    assert bye.painted == 7 and bye.busy > 0 and bye.peak_memory is not None
    assert all(entry.measured["denoise_seconds"] > 0 for entry in bye.ledger)
    Lease.acquire(["cpu-0"], tmp_path / own_folder().name, 0).release()


def test_small_pictures_are_written_beside_the_output_and_never_cost_the_row(
    fork: Callable[[], Talk], tmp_path: Path
) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    talk = fork()
    talk.send(job(tmp_path, thumbnails=True, tuning_overrides={"batch_size": 1}))
    good, bad = (picture(tmp_path / name, row, (300, 150)) for row, name in enumerate(("good", "bad"), 1))
    (tmp_path / "bad" / "thumbnail-1600").mkdir()
    talk.send(good, bad, Flush(), End())
    talk.until(lambda: talk.closed)
    assert talk.process.wait() == 0
    done = {event.row: event for event in talk.all(Done)}
    assert (done[1].thumbnail_sizes, done[1].thumbnail_problem) == ((256, 1600), "")
    assert pixels(str(tmp_path / "good" / "thumbnail-256")).shape == (128, 256, 3)
    coarse = [
        np.asarray(Image.fromarray(pixels(path)).reduce(30)).astype(int)
        for path in (str(tmp_path / "good" / "thumbnail-1600"), good.output)
    ]
    assert np.abs(coarse[0] - coarse[1]).mean() < 12, "the picture that was painted, though noise is hard on WebP"
    assert (done[2].thumbnail_sizes, done[2].thumbnail_problem.partition(":")[0]) == ((256,), "IsADirectoryError")


def test_a_failing_row_and_a_dying_process(start: Callable[..., Talk], tmp_path: Path) -> None:
    """Foreign exceptions end their row; a lost device ends the process without a Bye; no row is told twice."""
    script = tmp_path / "poisoned.py"
    script.write_text(
        textwrap.dedent(
            """
            import torch
            from inpaint_ops import images, worker
            from inpaint_ops.engine import Engine

            embed, encode = Engine._denoise, images.encode

            def denoise(self, rows, embeds):
                if any(item.prompt == "poison" for item in rows):
                    raise KeyError("poison")
                if any(item.prompt == "lost" for item in rows):
                    raise torch.AcceleratorError("CUDA error: device-side assert triggered")
                return embed(self, rows, embeds)

            def encode_or_not(pixels, *, format, **more):
                if format == "tiff":
                    raise ZeroDivisionError("no such pixels")
                return encode(pixels, format=format, **more)

            Engine._denoise, images.encode = denoise, encode_or_not
            worker.main()
            """
        )
    )
    talk = start(sys.executable, str(script))
    rows = [picture(tmp_path, row, (64, 64)) for row in (1, 2, 3, 4)]
    rows[1] = rows[1].model_copy(update={"prompt": "poison"})
    rows[2] = rows[2].model_copy(update={"format": "tiff"})
    talk.send(job(tmp_path, tuning_overrides={"batch_size": 3}), *rows[:3], Flush())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == 3)
    assert [event.row for event in talk.all(Done)] == [1]
    failed = {event.row: event.error for event in talk.all(Failed)}
    assert (failed[2].type, failed[2].stage) == ("KeyError", "denoise")
    assert (failed[3].type, failed[3].stage, failed[3].message) == ("ZeroDivisionError", "encode", "no such pixels")
    talk.send(rows[3].model_copy(update={"prompt": "lost"}), Flush())
    assert talk.process.wait(PATIENCE) == worker.EXIT_FATAL
    talk.until(lambda: talk.closed)
    (fatal,) = talk.all(Fatal)
    assert (fatal.error.type, fatal.error.stage, fatal.error.permanent) == ("DeviceLostError", "device", False)
    assert "device-side assert" in (tmp_path / own_folder().name / "cpu-0.losses").read_text()
    assert not talk.all(Bye) and not [event for event in talk.all(Done) + talk.all(Failed) if event.row == 4]


_CANNOT_CAST_BACK = """
from inpaint_ops.engine import Engine
from inpaint_ops.errors import DeviceOutOfMemoryError
from inpaint_ops.worker import main
def denoise(self, rows, embeds):
    raise DeviceOutOfMemoryError("no memory to cast the weights back")
Engine._denoise = denoise
main()
"""


def test_weights_that_cannot_be_put_back_end_the_process_and_not_the_device(
    start: Callable[..., Talk], tmp_path: Path
) -> None:
    """The row is left to another process; the device is well, and its next user finds no loss noted."""
    talk = start(sys.executable, "-c", _CANNOT_CAST_BACK)
    talk.send(job(tmp_path), picture(tmp_path, 1, (64, 64)), Flush())
    assert talk.process.wait(PATIENCE) == worker.EXIT_FATAL
    talk.until(lambda: talk.closed)
    (fatal,) = talk.all(Fatal)
    assert (fatal.error.type, fatal.error.stage) == ("DeviceOutOfMemoryError", "device")
    assert not talk.all(Done) and not talk.all(Failed)
    assert not (tmp_path / own_folder().name / "cpu-0.losses").exists()


@pytest.mark.parametrize(
    "lines",
    [b"{not json\n", b'{"kind":"job","model":1}\n', b'{"kind":"flush"}\n', b'{"kind":"job","model":"\xff"}\n', b"\n"],
)
def test_garbage_is_fatal(start: Callable[..., Talk], lines: bytes) -> None:
    talk = start()
    talk.commands.write(lines)
    talk.commands.flush()
    fatal: Fatal = talk.until(lambda: talk.all(Fatal))[0]
    assert fatal.error.stage == "worker"
    assert talk.process.wait(PATIENCE) == worker.EXIT_FATAL


def test_commands_are_utf8_whatever_the_locale(
    start: Callable[..., Talk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    talk = start(sys.executable, "-c", _SAYS_ITS_MODEL)
    talk.send(job(tmp_path).model_copy(update={"model": "modèle 杯"}))
    assert talk.until(lambda: talk.all(Fatal))[0].error.message == "modèle 杯"


_SAYS_ITS_MODEL = """
from inpaint_ops.errors import ModelError
from inpaint_ops.worker import main, serving
def set_up(job, say, **_):
    raise ModelError(job.model)
serving.set_up = set_up
main()
"""


def test_it_ends_with_its_standard_input(start: Callable[..., Talk], tmp_path: Path) -> None:
    talk = start()
    talk.send(job(tmp_path))
    talk.phase("imports")
    talk.commands.close()
    assert talk.process.wait(PATIENCE) == worker.EXIT_ORPHANED
    Lease.acquire(["cpu-0"], tmp_path / own_folder().name, 0).release()


def test_sigterm_ends_it(start: Callable[..., Talk], tmp_path: Path) -> None:
    talk = start()
    talk.send(job(tmp_path))
    talk.phase("imports")
    talk.process.send_signal(signal.SIGTERM)
    assert talk.process.wait(PATIENCE) == worker.EXIT_TERMINATED == 143


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed; the worker's standard input stays open, so that the kernel alone is left to act."""
    parent = textwrap.dedent(
        """
        import os, subprocess, sys, time
        process = subprocess.Popen(
            [sys.executable, "-m", "inpaint_ops.worker", "--events-fd", sys.argv[1], "--parent", str(os.getpid())],
            stdin=int(sys.argv[2]), pass_fds=(int(sys.argv[1]),),
        )
        print(process.pid, flush=True)
        time.sleep(600)
        """
    )
    events_read, events_write = os.pipe()
    commands_read, commands_write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", parent, str(events_write), str(commands_read)],
        stdout=subprocess.PIPE, pass_fds=(events_write, commands_read), env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as middle:  # fmt: skip
        os.close(events_write)
        os.close(commands_read)
        assert middle.stdout is not None
        pid = int(middle.stdout.readline())
        with os.fdopen(commands_write, "wb") as commands, os.fdopen(events_read, "rb") as events:
            commands.write(dump(job(tmp_path)).encode())
            commands.flush()
            assert any(b'"load"' in line for line in iter(events.readline, b""))
            with pytest.raises(DeviceBusyError, match=str(pid)):
                Lease.acquire(["cpu-0"], tmp_path / own_folder().name, 0)
            middle.kill()
            Lease.acquire(["cpu-0"], tmp_path / own_folder().name, PATIENCE).release()
            events.read()  # end of file: nobody holds the pipe any more
    wait_until(lambda: has_ended(pid))


def has_ended(pid: int) -> bool:
    """A process is a zombie until its new parent takes note."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_serve_is_a_plain_function_of_its_pipes() -> None:
    from inpaint_ops.worker.serving import serve

    events = io.StringIO()
    assert serve([b"nonsense\n"], events) == worker.EXIT_FATAL
    assert isinstance(parse_event(events.getvalue()), Fatal)


def one_block(folder: Path) -> str:
    """A model of one kind of transformer block, so that one graph is compiled: ten seconds of C++ each."""
    tiny = recipes.RECIPES["tiny-random"]
    blocks = {
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(recipes.RECIPES, "one-block", replace(tiny, unet={**tiny.unet, **blocks}))
        return str(random_weights.build("one-block", folder))


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_has_compiled(
    start: Callable[..., Talk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[[str], None]
) -> None:
    """Two real workers, one after the other, on one fresh model cache. What is found there is counted, not timed."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "model_cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    # One graph does not earn back the seconds of headers that are compiled first, nor of trials of instructions.
    monkeypatch.setenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")
    monkeypatch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")
    model = one_block(tmp_path / "one-block")
    seconds, byes = [], []
    for life in (1, 2):
        talk = start()
        rows = [picture(tmp_path, 10 * life + row, (64, 64)) for row in (1, 2, 3)]
        # batches of two, of which the last one has a single row
        overrides = {"compile": "regional", "batch_size": 2}
        talk.send(job(tmp_path, model=model, tuning_overrides=overrides, prompts=("a boat",)))
        talk.until(lambda talk=talk: talk.all(Ready))
        talk.send(*rows, End())
        byes.append(talk.until(lambda talk=talk: talk.all(Bye), 2 * PATIENCE)[0])
        assert talk.process.wait(PATIENCE) == 0
        done = sorted(talk.all(Done), key=lambda event: event.batch.id)
        assert [event.batch.size for event in done] == [2, 2, 1]
        stages = ("encode_prompt", "vae_encode", "denoise", "vae_decode")
        seconds.append(sum(getattr(done[0].timings, stage) for stage in stages))
    compiled = [next(entry for entry in bye.ledger if entry.name == "compile") for bye in byes]
    assert [(entry.effective, entry.matches) for entry in compiled] == [("regional", True)] * 2
    first, second = (entry.measured for entry in compiled)
    assert first["graphs"] == second["graphs"] > 0, "the single row of the last batch compiled nothing of its own"
    assert (first["cache_hits"], first["cache_misses"]) == (0, first["graphs"])
    assert (second["cache_hits"], second["cache_misses"]) == (second["graphs"], 0)
    folders = list((tmp_path / "model_cache" / FOLDER).iterdir())
    assert len(folders) == 1
    assert str(folders[0]) in compiled[1].reason
    costs = [bye.cold_start.compile for bye in byes]
    say(f"first image {seconds[0]:.1f} s compiling, {seconds[1]:.1f} s with its cache: {seconds[0] / seconds[1]:.1f}x")
    assert all(cost > 0 for cost in costs), "what compiling took is known"


def test_the_encoders_are_gone_and_the_ledger_says_so(fork: Callable[[], Talk], tmp_path: Path) -> None:
    talk = fork()
    talk.send(job(tmp_path, prompts=("a boat", "a house")))
    ready: Ready = talk.until(lambda: talk.all(Ready))[0]
    assert "prompts" in [phase.name for phase in talk.all(Phase)]
    assert ready.cold_start.prompts > 0
    assert [entry.name for entry in ready.ledger if not entry.matches] == []
    second = picture(tmp_path, 2, (64, 64)).model_copy(update={"negative_prompt": "a house"})
    talk.send(picture(tmp_path, 1, (64, 64)), second, End())
    bye: Bye = talk.until(lambda: talk.all(Bye))[0]
    assert len(talk.all(Done)) == 2
    assert [entry.name for entry in bye.ledger if not entry.matches] == []
    (entry,) = (entry for entry in bye.ledger if entry.name == "release_text_encoders")
    assert (entry.requested, entry.effective) == ("on", "on")
    assert entry.measured["released_bytes"] > 1e5
    assert entry.measured["texts_encoded"] == 3  # and the empty one


def test_use_xformers_false_reaches_the_ledger(fork: Callable[[], Talk], tmp_path: Path) -> None:
    talk = fork()
    talk.send(job(tmp_path, tuning="notes", use_xformers=False, scheduler="ddim"))
    ready: Ready = talk.until(lambda: talk.all(Ready))[0]
    ledger = {entry.name: entry for entry in ready.ledger}
    assert (ledger["attention"].requested, ledger["attention"].effective) == ("sdpa", "sdpa")
    assert "USE_XFORMERS=false" in ledger["attention"].reason
    assert (ledger["scheduler"].requested, ledger["scheduler"].effective) == ("ddim", "ddim")
    talk.send(End())
    talk.until(lambda: talk.all(Bye))
