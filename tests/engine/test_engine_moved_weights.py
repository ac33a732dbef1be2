"""Weights that are moved or cast for one row, and what becomes of the batch where they do not come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from inpaint_ops.engine import BatchKey, Engine, PaintItem
from inpaint_ops.engine import painting as painting_module
from inpaint_ops.engine.output_checks import cast
from inpaint_ops.errors import DeviceLostError, DeviceOutOfMemoryError
from tests.support.engine_parts import Remembering, painting_model

KEY = BatchKey(width=64, height=64, steps=2, guidance_scale=1.0, strength=0.9999)
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
NO_HOST_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5135000000 bytes")
LOST = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.fixture
def pipe(halves: Any) -> Iterator[Any]:
    yield halves
    for module in (halves.unet, halves.vae):
        for name in ("forward", "decode", "encode", "to"):
            module.__dict__.pop(name, None)
        module.to(torch.bfloat16)


def item(row: int) -> PaintItem:
    rgb = np.random.default_rng(row).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    return PaintItem(row, KEY, rgb, mask, "a red boat", None, row)


def needing_relief(pipe: Any, rows: set[int]) -> Callable[..., Any]:
    """A model's `relieve` that these rows need, told by their pictures; `entry` and `end` are raised there."""
    encode, relieved = pipe.vae.encode, [False]
    pictures = [item(row).rgb for row in rows]

    def hungry(pixels: torch.Tensor, *args: Any, **more: Any) -> Any:
        shown = ((pixels[0].float().permute(1, 2, 0) + 1) * 127.5).round().numpy()
        if not relieved[0] and any(np.abs(shown - picture).mean() < 40 for picture in pictures):
            raise NO_MEMORY
        return encode(pixels, *args, **more)

    pipe.vae.encode = hungry

    @contextmanager
    def block(entry: Exception | None, end: Exception | None) -> Iterator[None]:
        if entry is not None:
            raise entry
        relieved[0] = True
        yield
        relieved[0] = False
        if end is not None:
            raise end

    return block


def test_a_row_is_kept_and_the_batch_goes_on_where_its_weights_do_not_fit_the_device_again(pipe: Any) -> None:
    block, heard = needing_relief(pipe, {1}), Remembering()
    engine = Engine(painting_model(pipe, 1, relieve=lambda: block(None, NO_MEMORY)), heard)
    first, second = engine.paint([item(1), item(2)])
    assert first.image is not None and second.image is not None
    assert first.error is None and second.error is None
    assert len(heard.memory) == 2
    assert "row 1" in heard.memory[0] and "2.00 GiB" in heard.memory[0]


def test_a_row_fails_alone_where_the_host_has_no_memory_for_its_weights(pipe: Any) -> None:
    block, heard = needing_relief(pipe, {1}), Remembering()
    engine = Engine(painting_model(pipe, 1, relieve=lambda: block(NO_HOST_MEMORY, None)), heard)
    first, second = engine.paint([item(1), item(2)])
    assert isinstance(first.error, DeviceOutOfMemoryError)
    assert second.error is None and second.image is not None
    assert "DefaultCPUAllocator" in heard.memory[0]


def test_a_device_that_is_lost_while_weights_come_back_is_lost(pipe: Any) -> None:
    block = needing_relief(pipe, {1})
    engine = Engine(painting_model(pipe, 1, relieve=lambda: block(None, LOST)))
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        list(engine.paint([item(1), item(2)]))


def test_weights_that_fit_nowhere_end_the_painting_once_the_row_has_its_image(pipe: Any) -> None:
    """Rows after it are not painted with half a model: they are left to another process."""
    block = needing_relief(pipe, {1})
    nowhere = DeviceOutOfMemoryError("the weights fit neither the device nor the host's memory again")
    engine = Engine(painting_model(pipe, 1, relieve=lambda: block(None, nowhere)))
    painting = engine.paint([item(1), item(2)])
    assert next(painting).image is not None
    with pytest.raises(DeviceOutOfMemoryError, match="neither"):
        next(painting)
    with pytest.raises(DeviceOutOfMemoryError, match="neither"):
        list(engine.paint([item(3)]))


def nan_in_bfloat16(pipe: Any, otherwise: Callable[[], None]) -> None:
    """The UNet paints NaN unless it is widened; then `otherwise` is called before it paints."""
    forward = pipe.unet.forward

    def broken(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        if sample.dtype == torch.float32:
            otherwise()
            return forward(sample, *args, **more)
        return (forward(sample, *args, **more)[0] * float("nan"),)

    pipe.unet.forward = broken


def refusing(module: Any, dtype: torch.dtype, error: Exception) -> None:
    """Have the module's cast to `dtype` raise."""
    to = module.to
    module.to = lambda *args, **more: (_ for _ in ()).throw(error) if dtype in args else to(*args, **more)


def test_a_device_that_is_lost_while_the_model_is_cast_back_is_lost(pipe: Any) -> None:
    nan_in_bfloat16(pipe, lambda: None)
    refusing(pipe.unet, torch.bfloat16, LOST)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        list(Engine(painting_model(pipe, 1)).paint([item(1)]))


def test_each_part_is_cast_back_though_another_could_not_be(pipe: Any) -> None:
    nan_in_bfloat16(pipe, lambda: None)
    nowhere = DeviceOutOfMemoryError("no memory to cast the weights back")
    refusing(pipe.unet, torch.bfloat16, nowhere)
    engine = Engine(painting_model(pipe, 1))
    painting = engine.paint([item(1), item(2)])
    assert next(painting).error is not None
    with pytest.raises(DeviceOutOfMemoryError, match="cast the weights back"):
        next(painting)
    assert pipe.vae.dtype == pipe.text_encoder.dtype == pipe.text_encoder_2.dtype == torch.bfloat16


def test_a_device_that_is_lost_while_a_patch_is_decoded_again_is_lost(pipe: Any) -> None:
    decode, raised = pipe.vae.decode, []

    def broken(latents: torch.Tensor, *args: Any, **more: Any) -> Any:
        if latents.dtype == torch.float32 and not raised:
            raised.append(1)
            raise LOST
        return (decode(latents, *args, **more)[0] * (1 if raised else float("nan")),)

    pipe.vae.decode = broken
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        list(Engine(painting_model(pipe, 1)).paint([item(1)]))


def test_a_vae_that_cannot_be_cast_back_ends_the_painting(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a `force_upcast` VAE is after each batch: not one more row is painted with parts in two dtypes."""

    def nowhere(module: Any, dtype: torch.dtype) -> None:
        raise DeviceOutOfMemoryError("no memory to cast the weights back")

    decode = pipe.vae.decode
    pipe.vae.decode = lambda latents, *a, **k: (pipe.vae.to(torch.float32), decode(latents.float(), *a, **k))[1]
    monkeypatch.setattr(painting_module, "cast", nowhere)
    with pytest.raises(DeviceOutOfMemoryError, match="cast the weights back"):
        list(Engine(painting_model(pipe, 2)).paint([item(1), item(2)]))


class _OnACard:
    """A module on a card that has no memory for a second copy of its weights."""

    device = torch.device("cuda:0")

    def __init__(self, host_bytes: int) -> None:
        self.calls: list[Any] = []
        self.host_bytes = host_bytes

    def to(self, where: Any) -> _OnACard:
        self.calls.append(where)
        if where == torch.float16 and len(self.calls) == 1:
            raise NO_MEMORY
        if where == "cpu" and not self.host_bytes:
            raise NO_HOST_MEMORY
        return self


def test_a_module_is_cast_back_by_way_of_the_host_where_the_device_is_full() -> None:
    module = _OnACard(host_bytes=10)
    cast(module, torch.float16)
    assert module.calls == [torch.float16, "cpu", torch.float16, torch.device("cuda:0")]
    with pytest.raises(DeviceOutOfMemoryError, match="neither on the device nor on the host"):
        cast(_OnACard(host_bytes=0), torch.float16)
