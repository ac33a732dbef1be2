"""Imported by every interpreter of a trial: does in a worker what the files in the trial's `hooks/` say.

A forked worker has its changes from the warm host.

Nothing of the program is replaced: a row can kill its process with a real signal, and the model's forward pass can
raise what torch raises when a device fails. With libfaketime, `time.sleep` waits in another way.
"""

import importlib.abc
import importlib.machinery
import json
import os
import pathlib
import signal
import sys
import threading
import time


def _hooks() -> pathlib.Path:
    return pathlib.Path(os.environ.get("FAULT_TRIAL", "/nonexistent")) / "hooks"


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `change(module)` once the module `name` has been imported."""

    def __init__(self, name, change):
        self.name, self.change = name, change

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run, change = spec.loader.exec_module, self.change

        def exec_module(module):
            run(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def _poison(module):
    """A row with the poisoned prompt kills the process when its batch is painted."""
    prompt = (_hooks() / "poison").read_text()
    paint = module.Engine.paint

    def painted(self, batch):
        if any(item.prompt == prompt for item in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return paint(self, batch)

    module.Engine.paint = painted


def _device(module):
    """Painting fails as a device: {"device": slot or null, "error": lost or memory, "after": calls, "fits": rows}."""
    import torch

    told = json.loads((_hooks() / "device").read_text())
    denoise = module.Engine._denoise
    calls = 0

    def denoised(self, rows, embeds):
        nonlocal calls
        calls += 1
        mine = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if (told["device"] in (None, mine)) and calls > told["after"]:
            if told["error"] == "lost":
                raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
            if len(rows) > told["fits"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return denoise(self, rows, embeds)

    module.Engine._denoise = denoised


def _processor(module):
    """The leased card is a pretended one, and torch sees none: the worker paints on the processor all the same."""
    module._describe_device = lambda job, slot: module.device.describe("cpu")


def _sleep(seconds):
    threading.Event().wait(seconds)


if "FAKETIME_DONT_FAKE_MONOTONIC" in os.environ:  # with it libfaketime 0.9.10 has clock_nanosleep fail: EINVAL
    time.sleep = _sleep

if {"inpaint_ops.worker", "inpaint_ops.worker.warm_host"} & {*sys.orig_argv}:
    if (_hooks() / "device").exists():
        sys.meta_path.insert(0, _AfterImport("inpaint_ops.worker.setup", _processor))
    for _name, _change in (("poison", _poison), ("device", _device)):
        if (_hooks() / _name).exists():
            sys.meta_path.insert(0, _AfterImport("inpaint_ops.engine.painting", _change))
