"""What torch.compile makes: a cache that outlives the process, and figures of what it did in this one.

Each worker is a fresh process, so what one compiles must be there for the next. Inductor's FX graph cache,
AOTAutograd's and Triton's all lie below `TORCHINDUCTOR_CACHE_DIR`; here it becomes a folder of the model cache, one for
everything that a compiled graph depends on beyond its shapes, which Inductor keys by itself. The folder holds code that
is run, so nothing is compiled where another user of the machine could put some there (`refusal`).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint_ops.errors import UnsafePathError
from inpaint_ops.machine.private_folder import trusted_folder
from inpaint_ops.records import DeviceInfo
from inpaint_ops.tuning import Tuning

if TYPE_CHECKING:
    import torch

FOLDER = "inpaint_ops-compiled"
"""Below the root that HF_HOME names."""

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Read by Inductor whenever it compiles. One that the user sets is left as it is."""

_OTHERS = ("TRITON_CACHE_DIR", "TRITON_HOME", "TRITON_OVERRIDE_DIR", "TRITON_DUMP_DIR", "TORCH_EXTENSIONS_DIR")
"""Further folders of the user's that code is loaded from; unset, Triton's is below Inductor's or the home."""

GRAPHS = 512
"""Graphs that one piece of code may have: each working size and batch is one (dynamo's own limit is 8, and with a whole
graph demanded the ninth would be an error)."""

_PACKAGES = ("torch", "triton", "diffusers")
_FIELDS = ("dtype", "attention", "channels_last", "fuse_qkv", "compile")


def cache_folder(root: Path, device: DeviceInfo, model_digest: str, tuning: Tuning) -> Path:
    """The folder for this torch, Triton and diffusers, this card, these weights and these choices, below `root`."""
    key = {
        "versions": {name: _version(name) for name in _PACKAGES},
        "device": [device.kind, device.name, device.capability],
        "model": model_digest,
        "tuning": {name: getattr(tuning, name) for name in _FIELDS},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    return root / FOLDER / digest


def keep_in(folder: Path) -> str:
    """Have everything that is compiled from here on kept in `folder`; "" or why that cannot be.

    A folder that another user could write to is named all the same: `refusal` then reports it.
    """
    try:
        os.environ[VARIABLE] = str(trusted_folder(folder))
    except UnsafePathError:
        os.environ[VARIABLE] = str(folder)
        return ""
    except OSError as error:
        return f"{folder} cannot be made ({error.strerror}): the next process compiles again"
    if not os.access(folder, os.W_OK):
        del os.environ[VARIABLE]
        return f"{folder} cannot be written: the next process compiles again"
    return ""


def refusal() -> str:
    """Why nothing may be compiled in this process: another user could put code where it is kept; "" where none could.

    A folder that is missing is made, for this user alone: left to the libraries, another user could be first.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder = os.environ.get(VARIABLE) or default_cache_dir()
    try:
        os.environ[VARIABLE] = str(trusted_folder(Path(folder)))
        for folder in filter(None, map(os.environ.get, _OTHERS)):
            trusted_folder(Path(folder))
    except UnsafePathError as error:
        return f"compiled code is not safe from other users of this machine: {error}"
    except OSError as error:
        return f"there is no folder for compiled code: {error}"
    return ""


def kept(root: Path) -> dict[str, int]:
    """Bytes of each folder of compiled graphs below `root`."""
    folders = sorted((root / FOLDER).glob("*"))
    return {folder.name: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in folders}


def seconds() -> float:
    """Seconds that this process has spent compiling so far, reading from the cache included."""
    import torch._dynamo.utils as dynamo

    return sum(dynamo.compilation_time_metrics.get("_compile.compile_inner", ()))


def figures() -> dict[str, float]:
    """Graphs compiled in this process, and how many of them came out of the cache."""
    from torch._dynamo.utils import counters

    return {
        "graphs": float(counters["stats"]["unique_graphs"]),
        "cache_hits": float(counters["inductor"]["fxgraph_cache_hit"]),
        "cache_misses": float(counters["inductor"]["fxgraph_cache_miss"]),
    }


class CompileWatch:
    """Calls `report` with the seconds so far, every `every` seconds while torch.compile works, in a thread of its own.

    A compilation can take longer than a supervisor waits for a sign of life. After `limit` seconds of one compilation
    nothing more is reported, so that a compiler that hangs is found.
    """

    def __init__(self, report: Callable[[float], None], *, every: float = 10.0, limit: float = 3600.0) -> None:
        from torch._dynamo.callback import callback_handler

        self._report, self._every, self._limit = report, every, limit
        self._since: float | None = None
        self._changed = threading.Condition()
        self._callbacks = callback_handler
        callback_handler.register_start_callback(self._begun)
        callback_handler.register_end_callback(self._ended)
        threading.Thread(target=self._run, name="compile-watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._callbacks.remove_start_callback(self._begun)
        self._callbacks.remove_end_callback(self._ended)

    def _begun(self, _: object) -> None:
        with self._changed:
            self._since = time.monotonic()
            self._changed.notify_all()

    def _ended(self, _: object) -> None:
        with self._changed:
            self._since = None
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._since is not None)
                since = self._since
                if since is None or self._changed.wait_for(lambda since=since: self._since != since, self._every):  # type: ignore[misc]
                    continue
                seconds = time.monotonic() - since
            if seconds <= self._limit:
                self._report(seconds)


def is_wrapped(module: torch.nn.Module) -> bool:
    """Whether calling `module` calls what was compiled."""
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


def is_compiled(pipe: Any) -> bool:
    """Whether any module of the UNet is compiled."""
    return any(map(is_wrapped, pipe.unet.modules()))


def undo(pipe: Any) -> None:
    """Have `pipe` run without what was compiled: for a compiler that turned out not to work."""
    for part in (pipe.unet, pipe.vae):
        for module in part.modules():
            module._compiled_call_impl = None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
