"""Have torch believe in a CUDA card that is not there. For a process of its own: nothing is put back.

Tensors on the card are torch's FakeTensors: they have shapes, strides, dtypes and devices, and no values. What needs
a driver (streams, events, pinned memory, the allocator's figures) is answered here.
"""

from __future__ import annotations

import contextlib
import copyreg
import ctypes
import functools
import subprocess
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses import fake_impls, fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.dry_card.live_bytes import LiveBytes, on_card

aten = torch.ops.aten
CONTEXT = 500_000_000
"""Bytes that the card's own context takes; `mem_get_info` leaves them out, and so does every figure here."""


def install(total: int, compiler: str, folder: Path) -> tuple[FakeTensorMode, LiveBytes]:
    """Pretend a card of `total` bytes, its guard built by `compiler` in `folder`; enter both modes that come back."""
    _load_guard(compiler, folder)
    counter = LiveBytes()
    _pretend_driver(total, counter)
    _pretend_kernels()
    _pretend_values()
    _pretend_parameters()
    return FakeTensorMode(allow_non_fake_inputs=True), counter


def _load_guard(compiler: str, folder: Path) -> None:
    home, library = Path(torch.__file__).parent, folder / "guard.so"
    subprocess.run(
        [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{home}/include",
         str(Path(__file__).with_name("guard.cpp")), "-o", str(library), f"-L{home}/lib", "-lc10",
         f"-Wl,-rpath,{home}/lib"],
        check=True,
    )  # fmt: skip
    ctypes.CDLL(str(library))


class _Event:
    """Events count up instead of telling the time."""

    _clock = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._at: float | None = None

    def record(self, stream: object = None) -> None:
        _Event._clock += 1.0
        self._at = _Event._clock

    def elapsed_time(self, other: _Event) -> float:
        assert self._at is not None and other._at is not None, "an event that was not recorded"
        return other._at - self._at

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def wait(self, stream: object = None) -> None:
        pass


class _Stream:
    device_index, device_type, stream_id = 0, 1, 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cuda:0")

    def synchronize(self) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *args: object) -> None:
        pass


def _pretend_driver(total: int, counter: LiveBytes) -> None:
    properties = types.SimpleNamespace(
        name="dry card", major=9, minor=0, total_memory=total, multi_processor_count=132, warp_size=32,
        uuid="00000000-1111-2222-3333-444444444444", is_integrated=0, regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048, shared_memory_per_block=49152, shared_memory_per_block_optin=232448,
        shared_memory_per_multiprocessor=233472, L2_cache_size=52428800, gcnArchName="",
    )  # fmt: skip
    answers: dict[str, Any] = {
        "is_available": True, "is_initialized": True, "_lazy_init": None, "device_count": 1, "current_device": 0,
        "set_device": None, "get_device_properties": properties, "get_device_name": properties.name,
        "get_device_capability": (9, 0), "synchronize": None, "empty_cache": None, "ipc_collect": None,
        "is_bf16_supported": True, "set_per_process_memory_fraction": None,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    figures: dict[str, Any] = {
        "mem_get_info": lambda *_: (total - CONTEXT - counter.live, total),
        "memory_allocated": lambda *_: counter.live,
        "memory_reserved": lambda *_: counter.live,
        "max_memory_allocated": lambda *_: counter.peak,
        "max_memory_reserved": lambda *_: counter.peak,
        "reset_peak_memory_stats": lambda *_: None,  # the peaks are read and reset by whoever runs the case
        "stream": lambda _: contextlib.nullcontext(),
        "device": lambda _: contextlib.nullcontext(),
        "current_stream": lambda *_: _Stream(),
        "default_stream": lambda *_: _Stream(),
        "Event": _Event,
        "Stream": _Stream,
    }
    for name, answer in figures.items():
        setattr(torch.cuda, name, answer)
    accelerator: Any = torch.accelerator
    accelerator.is_available = lambda: True
    accelerator.current_accelerator = lambda check_available=False: torch.device("cuda")
    accelerator.device_count = lambda: 1
    fake_tensor.init_gpu_context = lambda device: None  # type: ignore[assignment]
    tensor: Any = torch.Tensor
    tensor.pin_memory = lambda self, device=None: self
    tensor.is_pinned = lambda self, device=None: True
    tensor.record_stream = lambda self, stream: None
    own = torch.Generator

    class Generator:
        """A CPU's generator for every device."""

        def __new__(cls, device: Any = "cpu") -> Any:
            return own("cpu")

    torch.Generator = Generator  # type: ignore[assignment, misc]


def _pretend_kernels() -> None:
    """Operators of the card whose results FakeTensorMode would give another layout or more memory."""
    implementations = fake_impls.op_implementations_dict

    def convolution(mode: FakeTensorMode, func: Any, *args: Any, **kwargs: Any) -> FakeTensor:
        """As cuDNN's: NHWC out where the input or the kernel is. Refuses mixed devices and dtypes, as the real one."""
        _, given = fake_impls._normalize_function_or_error(
            func, args=args, kwargs=kwargs, normalize_to_only_use_kwargs=True
        )
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        for other in (weight, *([bias] if bias is not None else [])):
            if x.device != other.device:
                raise RuntimeError(f"convolution: input on {x.device}, parameters on {other.device}")
            if x.dtype != other.dtype:
                raise RuntimeError(f"convolution: input {x.dtype}, parameters {other.dtype}")
        suggest = torch._prims_common.suggest_memory_format
        with fake_impls.in_kernel_invocation_manager(mode):
            out = func(*args, **kwargs)
            last = x.ndim == 4 and torch.channels_last in (suggest(x), suggest(weight))
            out = out.to(memory_format=torch.channels_last) if last else out.contiguous()
        return FakeTensor(mode, out, x.fake_device)

    implementations[aten.convolution.default] = convolution
    functional: Any = torch.nn.functional
    plain = functional.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        """As the fused kernels': no matrix of scores, and a result that is the transpose of (B, M, H, K)."""
        if not on_card(query):
            return plain(query, key, value, *args, **kwargs)
        one_dtype, one_device = {query.dtype, key.dtype, value.dtype}, {query.device, key.device, value.device}
        if len(one_dtype) > 1 or len(one_device) > 1:
            raise RuntimeError(f"attention of {one_dtype} on {one_device}")
        batch, heads, tokens, _ = query.shape
        out = torch.empty((batch, tokens, heads, value.shape[-1]), dtype=query.dtype, device=query.device)
        torch.empty((batch, heads, tokens), dtype=torch.float32, device=query.device)  # the kernels' log-sum-exp
        return out.transpose(1, 2)

    functional.scaled_dot_product_attention = attention


def _pretend_values() -> None:
    """Answers for code that asks a tensor without values for one."""

    def scalar(mode: FakeTensorMode, func: Any, tensor: FakeTensor) -> Any:
        if tensor.constant is not None:
            return tensor.constant.item()
        return True if tensor.dtype == torch.bool else 0.5 if tensor.dtype.is_floating_point else 1

    fake_impls.op_implementations_dict[aten._local_scalar_dense.default] = scalar

    def to_numpy(self: FakeTensor, *args: Any, **kwargs: Any) -> Any:
        if self.fake_device.type != "cpu":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return np.zeros(tuple(self.shape), str(self.dtype).removeprefix("torch."))

    def to_list(self: FakeTensor) -> list[Any]:
        return [self.dtype == torch.bool or 0.0] * self.shape[0]

    fake: Any = FakeTensor
    fake.numpy = fake.__array__ = to_numpy
    fake.tolist = to_list

    def through_the_host(make: Any) -> Any:
        @functools.wraps(make)
        def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
            if device is not None and torch.device(device).type == "cuda":
                return make(data, *args, device="cpu", **kwargs).to(device)
            return make(data, *args, device=device, **kwargs)

        return made

    torch.tensor, torch.as_tensor = through_the_host(torch.tensor), through_the_host(torch.as_tensor)
    own_item = torch.Tensor.__getitem__

    def item(self: Any, index: Any) -> Any:
        return own_item(self, torch.tensor(index).to(self.device) if isinstance(index, list) else index)

    fake.__getitem__ = item


def _pretend_parameters() -> None:
    """Offloading exchanges what a parameter holds (`parameter.data = …`), which FakeTensors refuse across devices."""

    def swap(one: Any, two: Any) -> None:
        """As torch.utils.swap_tensors, whoever else refers to the tensors."""
        slots = set(copyreg._slotnames(type(one))) & set(copyreg._slotnames(type(two)))  # type: ignore[attr-defined]
        for name in ("__class__", "__dict__", *sorted(slots)):
            if not name.startswith("__weakref"):
                first, second = getattr(one, name, None), getattr(two, name, None)
                setattr(one, name, second), setattr(two, name, first)
        torch._C._swap_tensor_impl(one, two)

    torch.utils.swap_tensors = swap
    own_data: Any = torch._C.TensorBase.data

    def set_data(self: Any, value: Any) -> None:
        if not isinstance(value, FakeTensor):
            own_data.__set__(self, value)
            return
        with torch.no_grad():
            alias = value.detach()
            is_parameter = isinstance(self, torch.nn.Parameter)
            swap(self, torch.nn.Parameter(alias, requires_grad=False) if is_parameter else alias)

    fake: Any = FakeTensor
    fake.data = property(lambda self: own_data.__get__(self), set_data)
    own_new = FakeTensor.__new__

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and "fake_mode" not in kwargs:  # accelerate: type(parameter)(value, requires_grad=…)
            return torch.nn.Parameter(args[0], requires_grad=kwargs.get("requires_grad", False))
        return own_new(cls, *args, **kwargs)

    fake.__new__ = staticmethod(new)
