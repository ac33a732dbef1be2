"""What is on the dry card: live bytes and their peak, and what made the processor wait for the card."""

from __future__ import annotations

import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

BLOCK = 512
"""Bytes that CUDA's caching allocator rounds a request up to (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)."""

_NORMS = (aten.group_norm.default, aten.native_group_norm.default)
_CONVOLUTIONS = (aten.conv2d.default, aten.convolution.default)
_SCALARS = (aten._local_scalar_dense.default, aten.equal.default)
_COPIES = (aten._to_copy.default, aten.copy_.default)


def on_card(value: object) -> bool:
    """Whether `value` is a tensor on the dry card."""
    return isinstance(value, FakeTensor) and value.fake_device.type == "cuda"


class LiveBytes(TorchDispatchMode):
    """Counts the storages of all tensors on the dry card, each rounded up to BLOCK, while it is active.

    Also counted is what CUDA's operators allocate inside: a group norm works on NCHW, a convolution with an NHWC kernel
    on NHWC, and each first copies an input in the other layout. Workspaces of cuDNN and cuBLAS are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.peak_at = ""
        """The operator that was running at the peak, with its result's shape."""
        self.limit: int | None = None
        """Bytes beyond which an allocation raises torch.OutOfMemoryError."""
        self.fail_in: Callable[[], bool] | None = None
        """Asked at each allocation; where it says yes, that allocation raises torch.OutOfMemoryError."""
        self.waits: Counter[str] = Counter()
        """Places in the code that read a value off the card, so that the processor waits for it."""
        self.uploads: Counter[str] = Counter()
        """Places in the code that copied something to the card."""
        self.downloads: Counter[str] = Counter()
        """Places in the code that copied something off the card, which the processor waits for."""
        self.layouts: Counter[str] = Counter()
        """By operator and `all` or `copied`: how many calls had an input, and how many in the other layout."""
        self._storages: dict[int, weakref.ref[Any]] = {}

    def reset_peak(self) -> None:
        """Count the peak from here on."""
        self.peak, self.peak_at = self.live, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SCALARS and on_card(args[0]):
            self.waits[_place()] += 1
        copied = self._layout_copy(func, args)
        with _without_constants(args, kwargs):
            out = func(*args, **kwargs)
        if func in _COPIES:
            source, target = (args[1], args[0]) if func is aten.copy_.default else (args[0], out)
            if on_card(target) and not on_card(source):
                self.uploads[_place()] += 1
            if on_card(source) and not on_card(target):
                self.downloads[_place()] += 1
        if func in _NORMS and on_card(out):
            out = out.contiguous()  # CUDA's kernel writes NCHW, whatever it was given
        for one in tree_leaves(out):
            if on_card(one):
                self._add(one, func)
        if copied:
            self._mark(copied, f"{func} with a copy of its input in the other layout")
        return out

    def _layout_copy(self, func: Any, args: Any) -> int:
        """Bytes of the copy that CUDA's operator makes of its input (ATen/native/cuda/group_norm_kernel.cu takes
        `X.contiguous()`; ATen/native/cudnn/ConvShared.cpp the layout of `cudnn_conv_suggest_memory_format`).
        """
        if func not in (*_NORMS, *_CONVOLUTIONS) or not on_card(args[0]) or args[0].ndim != 4:
            return 0
        x, weight = args[0], args[1]
        plain = x.is_contiguous()
        last = x.is_contiguous(memory_format=torch.channels_last)
        if func in _NORMS:
            name, wrong = "norm", not plain
        else:
            kernel_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
            name, wrong = "convolution", kernel_last and not last
        self.layouts[f"{name} all"] += 1
        self.layouts[f"{name} copied"] += wrong
        return int(x.numel() * x.element_size()) if wrong else 0

    def _add(self, tensor: FakeTensor, func: Any) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._storages.get(key)
        if known is not None and known() is storage:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if self.fail_in is not None and self.fail_in():
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes (by request)")
        self._check(size)

        def gone(_: object) -> None:
            self.live -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, gone)
        self.live += size
        self._mark(0, f"{func} {tuple(tensor.shape)} {tensor.dtype}")

    def _check(self, size: int) -> None:
        if self.limit is not None and self.live + size > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes (dry card)")

    def _mark(self, passing: int, what: str) -> None:
        """Note a peak of what is live and `passing` bytes more, which are gone when the operator ends."""
        self._check(passing)
        if self.live + passing > self.peak:
            self.peak, self.peak_at = self.live + passing, what


@contextmanager
def _without_constants(args: Any, kwargs: Any) -> Iterator[None]:
    """Within the block a fake tensor that remembers its value forgets it, where it goes to the card: FakeTensorMode
    would otherwise compute with that value on a device that is not there.
    """
    to_card = any(isinstance(one, torch.device) and one.type == "cuda" for one in (*args, *kwargs.values()))
    leaves = tree_leaves((args, kwargs)) if to_card else []
    held = [(one, one.constant) for one in leaves if isinstance(one, FakeTensor) and one.constant is not None]
    for one, _ in held:
        one.constant = None
    try:
        yield
    finally:
        for one, value in held:
            one.constant = value


def _place(depth: int = 3) -> str:
    """The innermost lines of code outside torch, and outside this folder."""
    found = []
    for frame in reversed(traceback.extract_stack(limit=60)):
        if "/dry_card/" not in frame.filename and "/torch/" not in frame.filename:
            found.append(f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}")
        if len(found) == depth:
            break
    return " < ".join(found)
