"""Patches that no model means to paint: found, tried again in float32, and never given out as an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from inpaint_ops.engine import BatchKey, Engine, PaintItem
from inpaint_ops.engine.output_checks import find_fault
from inpaint_ops.errors import FlatImageError, NonFiniteImageError
from tests.support.engine_parts import painting_model

KEY = BatchKey(width=64, height=64, steps=2, guidance_scale=1.0, strength=0.9999)


@pytest.fixture
def pipe(halves: Any) -> Iterator[Any]:
    yield halves
    for module in (halves.unet, halves.vae):
        for name in ("forward", "decode"):
            module.__dict__.pop(name, None)
    halves.unet.to(torch.bfloat16), halves.vae.to(torch.bfloat16)


def item(row: int, ground: np.ndarray | None = None) -> PaintItem:
    rgb = np.random.default_rng(row).integers(0, 256, (64, 64, 3), dtype=np.uint8) if ground is None else ground
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    return PaintItem(row, KEY, rgb, mask, "a red boat", None, row)


def paint(pipe: Any, *rows: PaintItem) -> list[Any]:
    engine = Engine(painting_model(pipe))
    return list(engine.paint(rows))


def breaking(inner: Callable[..., Any], broken: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """As `inner`, with the first of its tensors broken wherever it computes in less than float32."""

    def outer(tensor: torch.Tensor, *args: Any, **more: Any) -> Any:
        out = inner(tensor, *args, **more)
        return (broken(out[0]),) if tensor.dtype != torch.float32 else out

    return outer


BROKEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": lambda values: values * float("nan"),
    "infinity": lambda values: values / 0,
    "black": lambda values: torch.full_like(values, -1),
    "flat": lambda values: torch.full_like(values, 0.25),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_patch_is_decoded_again_in_float32(pipe: Any, fault: str) -> None:
    (whole,) = paint(pipe, item(1))
    pipe.vae.decode = breaking(pipe.vae.decode, BROKEN[fault])
    first, second = paint(pipe, item(1), item(2))
    for result in (first, second):
        assert result.error is None and result.image is not None and result.image[16:48, 16:48].std() > 3
        assert len(result.notes) == 1 and "decoded again in float32" in result.notes[0]
    assert np.abs(first.image.astype(int) - whole.image).mean() < 12, "the same picture, but for bfloat16"
    assert pipe.vae.dtype == pipe.unet.dtype == torch.bfloat16


def test_broken_latents_are_painted_again_in_float32_row_by_row(pipe: Any) -> None:
    weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    (whole,) = paint(pipe, item(1))
    pipe.unet.forward = breaking(pipe.unet.forward, BROKEN["nan"])
    first, second = paint(pipe, item(1), item(2))
    for result in (first, second):
        assert result.error is None and result.image is not None
        assert len(result.notes) == 1 and "painted again in float32" in result.notes[0]
    assert np.abs(first.image.astype(int) - whole.image).mean() < 12
    assert pipe.vae.dtype == pipe.unet.dtype == torch.bfloat16
    for name, value in pipe.unet.state_dict().items():
        assert torch.equal(value, weights[name]), "the weights are as they were"


@pytest.mark.parametrize(("fault", "error"), [("nan", NonFiniteImageError), ("black", FlatImageError)])
def test_what_float32_does_not_help_fails_with_what_was_wrong(pipe: Any, fault: str, error: type) -> None:
    calls, decode = [], pipe.vae.decode

    def always(latents: torch.Tensor, *args: Any, **more: Any) -> Any:
        calls.append(latents.dtype)
        return (BROKEN[fault](decode(latents, *args, **more)[0]),)

    pipe.vae.decode = always
    (result,) = paint(pipe, item(7))
    assert result.image is None and isinstance(result.error, error) and result.error.permanent
    assert "row 7" in str(result.error) and "float32" in str(result.error)
    # decoded, decoded again, and once more with all of the row painted again: not endlessly
    assert calls == [torch.bfloat16, torch.float32, torch.float32]


def test_an_intact_row_is_painted_once_and_says_nothing(pipe: Any) -> None:
    calls, decode = [], pipe.vae.decode
    pipe.vae.decode = lambda *args, **more: (calls.append(1), decode(*args, **more))[1]
    (result,) = paint(pipe, item(1))
    assert result.error is None and result.notes == () and len(calls) == 1


@pytest.mark.parametrize("level", [0, 255, 128])
def test_a_flat_patch_is_right_where_it_goes_on_with_what_is_around_it(level: int) -> None:
    """The white ground of a product photo is painted white."""
    ground = np.full((64, 64, 3), level, np.uint8)
    ground[20:44, 20:44] = np.random.default_rng(0).integers(0, 256, (24, 24, 3))  # what is to be removed
    flat = np.full((64, 64, 3), level, np.uint8)
    assert find_fault(flat, True, item(1, ground), "") is None
    assert isinstance(find_fault(flat, True, item(1), ""), FlatImageError)
    assert isinstance(find_fault(255 - flat // 2, True, item(1, ground), ""), FlatImageError) or level == 255
