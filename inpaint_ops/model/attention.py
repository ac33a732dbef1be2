"""Attention kernels: which work on this card and how fast, found out once per card; and having one preferred.

`set_attention_backend` does nothing on SDXL's UNet (docs/facts.md), so a kernel is preferred with PyTorch's own
`sdpa_kernel`, around a whole batch. A layer that the kernel cannot serve (the VAE's, with 512 channels per head) falls
to the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel

from inpaint_ops.errors import UnsafePathError
from inpaint_ops.machine.private_folder import read_bounded, replace_file, trusted_folder
from inpaint_ops.model.torch_errors import is_device_lost, is_out_of_memory, says_out_of_memory
from inpaint_ops.model.tuned import in_short, probe_xformers
from inpaint_ops.records import DeviceInfo
from inpaint_ops.tuning import MAX_PROBE_BYTES, PROBES, AttentionProbe

log = logging.getLogger(__name__)

KERNELS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}
"""PyTorch's kernels by the names that `Tuning.attention` has for them."""

TOLERANCE = 0.02
"""By how much a kernel's answer may differ from float32's; float16 keeps three digits."""

_PROBE_VERSION = 2
"""Counts up where what is tried changes, so that what an older version has kept is not taken for it."""

_TRIES = 5
_SHAPES = {"cuda": (2, 10, 4096, 64), "cpu": (2, 2, 64, 64)}
"""Batch, heads, tokens, channels per head. On a GPU those of SDXL's largest self-attention at 1024x1024, guided."""


def preferring(attention: str) -> AbstractContextManager[None]:
    """Within the block PyTorch takes the kernel that `attention` (a field of Tuning) names, where it can."""
    first = KERNELS.get(attention)
    if first is None:
        return nullcontext()
    if first is SDPBackend.MATH:
        return sdpa_kernel(first)  # it serves every layer; on a CPU, which knows no priorities, the others would win
    rest = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    return sdpa_kernel([first, *(kernel for kernel in rest if kernel is not first)], set_priority=True)


def kernel_in_use(unet: torch.nn.Module, attention: str, device: torch.device) -> str:
    """The kernel that PyTorch itself says it would take for the UNet's attention; "" where it does not say."""
    ask = getattr(torch, "_fused_sdp_choice", None)
    layer = next((one for one in unet.modules() if isinstance(one, Attention)), None)
    if ask is None or layer is None:
        return ""
    # On the device that computes: offloaded weights lie elsewhere between batches.
    shape = (1, layer.heads, 64, layer.inner_dim // layer.heads)
    query = torch.empty(shape, dtype=layer.to_q.weight.dtype, device=device)
    with preferring(attention):
        chosen = ask(query, query, query)
    return next((name for name, kernel in KERNELS.items() if int(kernel.value) == int(chosen)), "")


def probe(device: DeviceInfo, dtype: str, root: Path) -> AttentionProbe:
    """What is known of this card's kernels in `dtype`, from `root` (HF_HOME) or, the first time, by trying each.

    Keyed by the card, its driver, torch and xFormers. A cache that cannot be written, or that another user could write
    to, is done without.
    """
    versions = _PROBE_VERSION, *map(_version, ("torch", "xformers"))
    key = [device.kind, device.name, device.capability, device.driver, dtype, *versions]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
    try:
        path = trusted_folder(root / PROBES) / f"{name}.json"
    except (OSError, UnsafePathError) as error:
        log.warning("what is found out of the attention kernels is not kept: %s", error)
        return measure(device, dtype)[0]
    with contextlib.suppress(OSError, UnsafePathError, ValidationError):
        return AttentionProbe.model_validate_json(read_bounded(path, MAX_PROBE_BYTES, owners=(0,)))
    found, lasting = measure(device, dtype)
    if not lasting:
        log.warning("memory ran out while attention kernels were tried: the next worker tries them again")
        return found
    with contextlib.suppress(OSError):
        replace_file(path, (found.model_dump_json(indent=1) + "\n").encode())
    return found


@torch.inference_mode()
def measure(device: DeviceInfo, dtype: str) -> tuple[AttentionProbe, bool]:
    """Call each kernel on the device; its median seconds, or why it cannot be used. Takes well under a second.

    The second value is whether this would come out the same again: not where memory ran out. Raises what torch raises
    where the device is lost.
    """
    place = torch.device(device.kind)
    shape = _SHAPES[device.kind]
    generator = torch.Generator(place).manual_seed(0)
    query, key, value = (torch.randn(shape, device=place, generator=generator) for _ in range(3))
    small = [tensor[:1, :2, :512] for tensor in (query, key, value)]
    with sdpa_kernel(SDPBackend.MATH):
        wanted = torch.nn.functional.scaled_dot_product_attention(small[0], small[1], small[2])
    given = [tensor.to(getattr(torch, dtype)) for tensor in (query, key, value)]
    cut = [tensor.to(getattr(torch, dtype)) for tensor in small]

    def plain(tensors: list[torch.Tensor]) -> torch.Tensor:
        query, key, value = tensors
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    def alone(kernel: SDPBackend) -> Callable[[list[torch.Tensor]], torch.Tensor]:
        def call(tensors: list[torch.Tensor]) -> torch.Tensor:
            with sdpa_kernel(kernel):  # this one or an error
                return plain(tensors)

        return call

    seconds: dict[str, float] = {}
    why_not: dict[str, str] = {}
    no_memory = False
    calls = {"sdpa": plain} | {name: alone(kernel) for name, kernel in KERNELS.items()}
    if reason := probe_xformers(device.kind, dtype):
        why_not["xformers"] = reason
        no_memory = says_out_of_memory(reason)
    else:
        calls["xformers"] = _xformers
    for name, call in calls.items():
        try:
            off = float((call(cut).float() - wanted).abs().max())
            if not off < TOLERANCE:
                why_not[name] = f"its answer is off by {off:.3g}"
                continue
            seconds[name] = _seconds(lambda call=call: call(given), place)  # type: ignore[misc]
        except Exception as error:  # no such kernel here, no memory: whatever it says is the reason
            if is_device_lost(error):
                raise
            no_memory |= is_out_of_memory(error)
            why_not[name] = in_short(error)
    layouts: dict[str, float] = {}
    try:
        layouts = layout_seconds(place, dtype) if place.type == "cuda" else {}
    except Exception as error:
        if is_device_lost(error):
            raise
        no_memory |= is_out_of_memory(error)
        log.warning("the layouts of convolutions could not be compared: %s", in_short(error))
    if place.type == "cuda":
        torch.cuda.empty_cache()  # the math kernel's scores are large: the weights need that room
    found = AttentionProbe(
        device=device.name, dtype=dtype, shape=shape, seconds=seconds, why_not=why_not, layouts=layouts
    )
    return found, not no_memory


def layout_seconds(place: torch.device, dtype: str, side: int = 128, channels: int = 320) -> dict[str, float]:
    """Median seconds of one of the UNet's residual blocks with its kernels in NCHW (`contiguous`) and in NHWC order.

    The block has the group norms between the convolutions, which work on NCHW: what a layout really costs is their
    copies too. The input is (2, channels, side, side): the UNet's first level at 1024x1024 with guidance.
    """
    block = ResnetBlock2D(in_channels=channels, temb_channels=4 * channels).to(place, getattr(torch, dtype)).eval()
    latents, time_embedding = (
        torch.randn(shape, device=place, dtype=getattr(torch, dtype))
        for shape in ((2, channels, side, side), (2, 4 * channels))
    )
    found = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        block.to(memory_format=layout)
        given = latents.to(memory_format=layout)  # as the blocks before it leave it
        found[name] = _seconds(lambda given=given: block(given, time_embedding), place)  # type: ignore[misc]
    return found


def _xformers(tensors: list[torch.Tensor]) -> torch.Tensor:
    import xformers.ops

    turned = (tensor.transpose(1, 2) for tensor in tensors)
    answer: torch.Tensor = xformers.ops.memory_efficient_attention(*turned)
    return answer.transpose(1, 2)


def _seconds(call: Callable[[], object], place: torch.device) -> float:
    call()
    times = []
    for _ in range(_TRIES):
        _wait(place)
        clock = time.perf_counter()
        call()
        _wait(place)
        times.append(time.perf_counter() - clock)
    return statistics.median(times)


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
