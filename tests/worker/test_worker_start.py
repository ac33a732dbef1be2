"""A worker up to Ready: what it imports and when, the device it leases, and what ends it before it has begun."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from inpaint_ops import worker
from inpaint_ops.device import Lease
from inpaint_ops.device.lease_files import own_folder
from inpaint_ops.protocol import (
    Fatal,
    Phase,
    Ready,
)
from tests.support.waiting import PATIENCE
from tests.support.worker_talk import Talk, job, start

__all__ = ["start"]


_IMPORTS_ALONE = """
import os, sys
sys.path.insert(0, {repository!r})
import torch
class Touched(BaseException):
    pass
def touched(*_):
    raise Touched("CUDA was asked")
torch.version.cuda = "13.0"
for name in ("_cuda_getDeviceCount", "_cuda_init", "_cuda_getCurrentRawStream"):
    setattr(torch._C, name, touched)
assert torch.cuda._is_compiled()
from inpaint_ops.worker.imports import import_model_stack, set_environment
os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-7"
os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
set_environment()
import_model_stack()
assert "xformers.ops" in sys.modules or {no_xformers}, "what asks for cards is imported"
assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-7" and "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ
print("none was asked")
"""


def test_importing_the_model_stack_asks_cuda_for_no_card() -> None:
    """It would make a context on a card that another worker has leased, and fix which cards this one may see."""
    no_xformers = importlib.util.find_spec("xformers") is None
    code = _IMPORTS_ALONE.format(repository=str(Path(worker.__file__).parents[2]), no_xformers=no_xformers)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "none was asked\n", done.stderr


def test_a_worker_that_waits_for_its_device_has_imported_already(start: Callable[..., Talk], tmp_path: Path) -> None:
    """The next task imports while this one's device paints."""
    talk = start()
    with Lease.acquire(["cpu-0"], tmp_path / own_folder().name, 0):
        talk.send(job(tmp_path, lease_timeout=PATIENCE))
        talk.until(lambda: [phase for phase in talk.all(Phase) if phase.name == "lease" and phase.detail])
        assert "libtorch" in Path(f"/proc/{talk.process.pid}/maps").read_text()
    ready: Ready = talk.until(lambda: talk.all(Ready))[0]
    assert ready.cold_start.imports > 0


def test_a_busy_device_is_fatal_and_transient(start: Callable[..., Talk], tmp_path: Path) -> None:
    talk = start()
    with Lease.acquire(["cpu-0"], tmp_path / own_folder().name, 0):
        talk.send(job(tmp_path))
        fatal: Fatal = talk.until(lambda: talk.all(Fatal))[0]
    assert (fatal.error.type, fatal.error.stage, fatal.error.permanent) == ("DeviceBusyError", "device", False)
    assert talk.process.wait(PATIENCE) == worker.EXIT_FATAL


_HAS_A_GPU = """
import torch
from inpaint_ops import device
from inpaint_ops.worker import main
device.host_slots = lambda *_, **__: ["GPU-1"]
{more}
main()
"""


_SEES_ANOTHER = """
from inpaint_ops.records import DeviceInfo
device.describe = lambda _: DeviceInfo(kind="cuda", name="a card", uuid="GPU-2")
"""


_BREAKS = """
def broken(*_):
    raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
device.describe = broken
"""


def test_a_leased_gpu_that_torch_cannot_see_is_refused_with_the_cure(
    start: Callable[..., Talk], tmp_path: Path
) -> None:
    """It would paint on the processor, and say nothing of it."""
    talk = start(sys.executable, "-c", _HAS_A_GPU.format(more=""))
    talk.send(job(tmp_path, device="auto"))
    fatal: Fatal = talk.until(lambda: talk.all(Fatal))[0]
    assert (fatal.error.type, fatal.error.permanent) == ("ConfigError", True)
    for part in ("GPU-1", "driver", "capability compute", "INPAINT_DEVICE=cpu"):
        assert part in fatal.error.message
    assert talk.process.wait(PATIENCE) == worker.EXIT_FATAL


def test_a_gpu_that_is_not_the_leased_one_is_refused(start: Callable[..., Talk], tmp_path: Path) -> None:
    """Another worker may have leased it."""
    talk = start(sys.executable, "-c", _HAS_A_GPU.format(more=_SEES_ANOTHER))
    talk.send(job(tmp_path, device="auto"))
    fatal: Fatal = talk.until(lambda: talk.all(Fatal))[0]
    assert fatal.error.type == "ConfigError"
    assert "GPU-1 is leased, but torch uses GPU-2" in fatal.error.message
    assert talk.process.wait(PATIENCE) == worker.EXIT_FATAL


def test_a_card_that_is_broken_at_the_start_is_noted_as_lost(start: Callable[..., Talk], tmp_path: Path) -> None:
    talk = start(sys.executable, "-c", _HAS_A_GPU.format(more=_BREAKS))
    talk.send(job(tmp_path, device="auto"))
    fatal: Fatal = talk.until(lambda: talk.all(Fatal))[0]
    assert (fatal.error.type, fatal.error.stage, fatal.error.permanent) == ("DeviceLostError", "device", False)
    assert talk.process.wait(PATIENCE) == worker.EXIT_FATAL
    assert "uncorrectable ECC" in (tmp_path / own_folder().name / "GPU-1.losses").read_text()


def test_it_does_not_start_under_another_parent(start: Callable[..., Talk]) -> None:
    process = subprocess.Popen([sys.executable, "-m", "inpaint_ops.worker", "--events-fd", "1", "--parent", "1"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.wait(PATIENCE) == worker.EXIT_ORPHANED


def test_importing_the_worker_imports_no_torch() -> None:
    code = "import sys, inpaint_ops.worker.serving; assert not {'torch', 'diffusers', 'transformers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
