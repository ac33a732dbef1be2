"""An author of images has a file that takes its decoder over, takes all memory or time, or breaks it: in the pages and
the report, whose processes hold the store's keys.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from inpaint_ops.errors import PreviewError
from inpaint_ops.machine import limited_process
from inpaint_ops.previews import Helper, Job, Limits
from inpaint_ops.previews.helper import Whole
from inpaint_ops.previews.messages import join_parts, split_parts
from tests.attacks.conftest import Scripted
from tests.attacks.costly_files import black_png
from tests.support.pictures import file_of, smooth

JOB = Job("picture", 256, 100_000_000)
Helpers = Callable[..., Helper]


def test_a_decoder_sees_no_key_no_file_and_no_socket(
    scripted: Scripted, helpers: Helpers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A decoder that was taken over looks for the store's keys around it."""
    canary = "canary-9f2c"
    for name in ("AWS_SECRET_ACCESS_KEY", "AIRFLOW__CORE__FERNET_KEY", "INPAINT_STORE", "NVIDIA_API_KEY", "HOME"):
        monkeypatch.setenv(name, canary)
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        seen = helpers().make(JOB, [Whole(b"look")]).data.decode("latin-1").splitlines()[:]
    assert canary not in "\n".join(seen)
    names = {line.partition("=")[0] for line in seen if "=" in line}
    assert names <= {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                     "LC_CTYPE"}  # fmt: skip
    assert not [line for line in seen if line.startswith(("/", "socket"))], "nothing can be opened"
    opened = [line for line in seen if "fd " in line]
    assert len(opened) == 4, "standard error, the pipe to the host, and this test's two FIFOs"


def test_a_limited_process_cannot_look_into_its_ancestors() -> None:
    """A decoder that was taken over reads the keys out of the environment of a process above it."""
    code = (
        "import os; from pathlib import Path; from inpaint_ops.machine.limited_process import withdraw\n"
        "if withdraw():\n"
        "    try: print(len(Path(f'/proc/{os.getppid()}/environ').read_bytes()))\n"
        "    except PermissionError: print('refused')\n"
        "else: print('not here')"
    )
    keeper = "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', sys.argv[1]], text=True))"
    said = subprocess.check_output([sys.executable, "-c", keeper, code], text=True).strip()
    if said == "not here":
        pytest.skip("this machine allows no user namespaces")
    assert said == "refused"


def test_memory_is_limited_per_picture(helpers: Helpers) -> None:
    """A file of kilobytes has the api-server or the report take gigabytes."""
    wide = black_png(4000, 2500, 16, 6)
    made = helpers(Limits(memory_bytes=256 * 2**20, wall_seconds=300)).make(JOB, [Whole(wide)])
    assert made.peak < 512 * 2**20
    with Image.open(io.BytesIO(made.data)) as small:
        assert small.size == (256, 160)
    tight = helpers(Limits(memory_bytes=24 * 2**20, wall_seconds=300))
    with pytest.raises(PreviewError, match=r"24 MiB that a preview may take|cannot be decoded"):
        tight.make(JOB, [Whole(wide)])
    assert tight.make(JOB, [Whole(file_of(smooth(30, 40)))]).data, "the next one is made"
    assert tight.started == 1
    assert Limits().memory_bytes < 2**30


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("spin", "takes more than 1 s to decode"),
        ("hungry", "MiB that a preview may take"),
        ("crash", "broke its decoder, which was ended by SIGSEGV"),
        ("odd", "broke its decoder, which was ended by signal"),
        ("shout", "broke its decoder"),
        ("lie", "svg"),
        ("refuse", "is refused"),
    ],
)
def test_a_broken_decoder_costs_its_own_picture_alone(
    word: str, why: str, scripted: Scripted, helpers: Helpers
) -> None:
    """A file breaks its decoder, or has it run for ever, or say something that is no picture."""
    helper = helpers(Limits(cpu_seconds=1, wall_seconds=300))
    with pytest.raises(PreviewError, match=why):
        helper.make(JOB, [Whole(word.encode())])
    assert helper.make(JOB, [Whole(b"next")]).data.endswith(b"next")
    assert helper.started == 1, "the host itself decodes nothing, so it stands"


def test_a_decoder_that_is_killed_costs_its_own_picture_alone(scripted: Scripted, helpers: Helpers) -> None:
    """The kernel kills a decoder, or its host, for want of memory."""
    helper = helpers()
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(helper.make, JOB, [Whole(b"wait")])
        os.kill(scripted.began(), 9)
        with pytest.raises(PreviewError, match="ended by SIGKILL"):
            going.result()
        assert helper.started == 1
        going = pool.submit(helper.make, JOB, [Whole(b"wait")])
        scripted.began()
        assert helper.pid is not None
        os.kill(helper.pid, 9)
        with pytest.raises(PreviewError, match="the process that decoded it ended"):
            going.result()
    assert helper.make(JOB, [Whole(b"next")]).data.endswith(b"next")
    assert helper.started == 2


def test_what_takes_too_long_is_ended(scripted: Scripted, helpers: Helpers) -> None:
    """A file has its decoder wait for ever."""
    helper = helpers()
    helper.make(JOB, [Whole(b"first")])
    helper.limits = replace(helper.limits, wall_seconds=2)
    with pytest.raises(PreviewError, match="takes more than 2 s to preview"):
        helper.make(JOB, [Whole(b"wait")])
    assert helper.pid is None
    helper.limits = replace(helper.limits, wall_seconds=300)
    assert helper.make(JOB, [Whole(b"next")]).data.endswith(b"next")


def test_a_return_code_is_told_in_words_whatever_it_is() -> None:
    """A decoder ends itself by a signal that has no name."""
    assert limited_process.how_it_ended(-9) == "was ended by SIGKILL"
    assert limited_process.how_it_ended(-40) == "was ended by signal 40"
    assert limited_process.how_it_ended(3) == "ended with exit code 3"


@pytest.mark.parametrize("asked", [{"block": (0, 0, 0)}, {"kind": "difference"}, {"kind": "size"}])
@pytest.mark.parametrize("word", ["lie", "a picture where parts are due"])
def test_an_answer_that_is_not_of_the_parts_that_were_asked_for_is_refused(
    asked: dict[str, object], word: str, scripted: Scripted, helpers: Helpers
) -> None:
    """A decoder that was taken over answers something else than tiles, or figures and a picture."""
    with pytest.raises(PreviewError):
        helpers().make(replace(JOB, **asked), [Whole(word.encode())])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"PARTS",
        b"PARTS\x00",
        b"PARTS\x01\xff\xff\xff\xff",
        b"PARTS\x11" + bytes(68),
        b"PARTS\x01\x00\x00\x00\x02abc",
    ],
)
def test_parts_of_wrong_lengths_are_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError, match="parts"):
        split_parts(body)
    assert split_parts(join_parts([b"", b"ab", b"c"])) == (b"", b"ab", b"c")
