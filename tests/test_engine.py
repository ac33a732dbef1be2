"""The engine with a real tiny SDXL pipeline of random weights, on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from inpaint_ops.engine import Batcher, BatchKey, Engine, PaintItem, PaintResult
from inpaint_ops.errors import DeviceOutOfMemoryError, NonFiniteImageError
from inpaint_ops.model.random_weights import instantiate
from inpaint_ops.records import LedgerEntry

KEY = BatchKey(width=64, height=64, steps=4, guidance_scale=7.5, strength=0.9999)
LEVELS = 1
"""Levels of 255 by which a row may differ between a batch and by itself: 2e-6 of float noise can tip a rounding."""


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other on a busy machine: 100 s instead of 7
    yield instantiate("tiny-random")
    torch.set_num_threads(threads)


@pytest.fixture
def make(pipe: Any) -> Iterator[Callable[..., Engine]]:
    """Engines on the one pipeline; what a test hangs onto it is taken off afterwards."""

    def engine(batch_size: int = 4, **options: Any) -> Engine:
        return Engine(SimpleNamespace(pipe=pipe), SimpleNamespace(batch_size=batch_size), **options)

    yield engine
    for module in (pipe, pipe.unet, pipe.vae):
        for name in ("encode_prompt", "encode", "decode", "forward"):
            module.__dict__.pop(name, None)


def item(
    row: int,
    *,
    key: BatchKey = KEY,
    seed: int | None = None,
    prompt: str = "a red boat",
    negative_prompt: str | None = None,
) -> PaintItem:
    """A row whose picture and mask depend on its number."""
    draw = np.random.default_rng(row)
    rgb = draw.integers(0, 256, (key.height, key.width, 3), dtype=np.uint8)
    mask = np.zeros((key.height, key.width), np.uint8)
    mask[8 * (row % 4) : 40, 16:56] = 255
    return PaintItem(row, key, rgb, mask, prompt, negative_prompt, row if seed is None else seed)


def image(result: PaintResult) -> np.ndarray:
    assert result.error is None, result.error
    assert result.image is not None
    return result.image


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_a_batch_of_three_equals_three_singles(make: Callable[..., Engine]) -> None:
    rows = [item(1), item(2, prompt="a blue house", negative_prompt="blurry"), item(3, negative_prompt="")]
    together = list(make().paint(rows))
    assert [result.row for result in together] == [1, 2, 3]
    for row, result in zip(rows, together, strict=True):
        (single,) = make().paint([row])
        assert image(result).shape == (64, 64, 3) and image(result).dtype == np.uint8
        assert difference(image(result), image(single)) <= LEVELS
    assert {result.batch.size for result in together if result.batch} == {3}


def test_the_seed_alone_decides_the_noise(make: Callable[..., Engine]) -> None:
    engine = make()
    (first,) = engine.paint([item(1, seed=7)])
    torch.manual_seed(99)
    (again,) = engine.paint([item(1, seed=7)])
    (other,) = engine.paint([item(1, seed=8)])
    assert np.array_equal(image(first), image(again))
    assert difference(image(first), image(other)) > 10


def test_decoding_apart_gives_what_the_pipeline_gives(make: Callable[..., Engine], pipe: Any) -> None:
    from PIL import Image

    row = item(5, negative_prompt="blurry")
    (result,) = make().paint([row])
    whole = pipe(
        prompt=row.prompt, negative_prompt=row.negative_prompt, image=Image.fromarray(row.rgb),
        mask_image=Image.fromarray(row.mask), generator=torch.Generator("cpu").manual_seed(row.seed),
        width=64, height=64, num_inference_steps=4, guidance_scale=7.5, strength=0.9999, output_type="np",
    ).images[0]  # fmt: skip
    assert difference(image(result), (whole * 255).round().astype(np.uint8)) <= LEVELS


@pytest.mark.parametrize(("steps", "strength", "ran"), [(6, 0.5, 3), (6, 0.9999, 5), (6, 1.0, 6)])
def test_recorded_steps_are_those_that_ran(make: Callable[..., Engine], steps: int, strength: float, ran: int) -> None:
    seen: list[tuple[int, int]] = []
    engine = make(on_step=lambda step, total: seen.append((step, total)))
    (result,) = engine.paint([item(1, key=KEY._replace(steps=steps, strength=strength))])
    assert result.steps == ran
    assert seen == [(step, ran) for step in range(1, ran + 1)]


def test_each_text_is_encoded_once(make: Callable[..., Engine], pipe: Any) -> None:
    texts: Counter[str] = Counter()
    encode = pipe.encode_prompt

    def counted(*args: Any, prompt: Any = None, **more: Any) -> Any:
        if prompt is not None:
            texts[prompt] += 1
        return encode(*args, prompt=prompt, **more)

    pipe.encode_prompt = counted
    engine = make(batch_size=2)
    rows = [item(1, prompt="a"), item(2, prompt="b", negative_prompt="a"), item(3, prompt="a", negative_prompt="c")]
    list(engine.paint(rows))
    list(engine.paint(rows))
    assert texts == {"a": 1, "b": 1, "c": 1}

    bounded = make(prompts_kept=1)
    list(bounded.paint([item(1, prompt="a"), item(2, prompt="b"), item(3, prompt="a")]))
    assert texts == {"a": 3, "b": 2, "c": 1}


def test_without_guidance_there_is_no_negative_half(make: Callable[..., Engine], pipe: Any) -> None:
    sizes = []
    forward = pipe.unet.forward

    def seen(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        sizes.append(len(sample))
        return forward(sample, *args, **more)

    pipe.unet.forward = seen
    key = KEY._replace(guidance_scale=1.0)
    plain = list(make().paint([item(1, key=key), item(2, key=key, negative_prompt="blurry")]))
    assert set(sizes) == {2}
    sizes.clear()
    guided = list(make().paint([item(1), item(2)]))
    assert set(sizes) == {4}
    assert difference(image(plain[0]), image(guided[0])) > 0


def test_out_of_memory_halves_the_batch_and_remembers(make: Callable[..., Engine], pipe: Any) -> None:
    forward, said = pipe.unet.forward, []

    def small_card(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        if len(sample) > 2 * 2:  # guidance doubles the rows
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return forward(sample, *args, **more)

    alone = [image(next(iter(make().paint([item(row)])))) for row in range(6)]
    pipe.unet.forward = small_card
    engine = make(batch_size=6, on_warning=said.append)
    results = list(engine.paint([item(row) for row in range(6)]))
    assert engine.batch_size == 1  # 6, then 3, then 1
    assert [result.row for result in results] == list(range(6))
    assert all(difference(image(result), one) <= LEVELS for result, one in zip(results, alone, strict=True))
    assert len(said) == 2 and "3 from here on" in said[0]

    four = make(batch_size=4)
    assert [result.batch.size for result in four.paint([item(row) for row in range(4)]) if result.batch] == [2] * 4
    assert four.batch_size == 2


def test_a_row_that_does_not_fit_fails_alone(make: Callable[..., Engine], pipe: Any) -> None:
    encode = pipe.vae.encode

    def hungry(pixels: torch.Tensor, *args: Any, **more: Any) -> Any:
        if float(pixels.mean()) > 0.5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(pixels, *args, **more)

    pipe.vae.encode = hungry
    white = item(2)
    white.rgb[...] = 255
    white.mask[...] = 0
    white.mask[:8, :8] = 255
    first, second, third = make().paint([item(1), white, item(3)])
    image(first), image(third)
    assert isinstance(second.error, DeviceOutOfMemoryError) and second.error.permanent
    assert "64x64" in str(second.error)
    assert pipe.vae.encode is hungry  # the engine's own wrapper is off again


def test_a_row_of_nan_fails_alone_and_is_no_black_image(make: Callable[..., Engine], pipe: Any) -> None:
    decode = pipe.vae.decode

    def broken(latents: torch.Tensor, *args: Any, **more: Any) -> Any:
        (pixels,) = decode(latents, *args, **more)
        pixels[1, :, 10, 10] = float("nan")
        return (pixels,)

    pipe.vae.decode = broken
    first, second, third = make().paint([item(1), item(2), item(3)])
    image(first), image(third)
    assert second.image is None
    assert isinstance(second.error, NonFiniteImageError) and second.error.permanent
    assert "float32" in str(second.error)


def test_a_poison_row_fails_alone(make: Callable[..., Engine], pipe: Any) -> None:
    forward = pipe.unet.forward

    def poisoned(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        if bool((sample[:, 4] == 1).all(dim=(1, 2)).any()):  # the mask's channel: all of it is painted
            raise ValueError("an unlucky shape")
        return forward(sample, *args, **more)

    pipe.unet.forward = poisoned
    rows = [item(row) for row in range(5)]
    rows[1].mask[...] = 255
    engine = make(batch_size=3)
    results = list(engine.paint(rows))
    assert [type(result.error) for result in results] == [type(None), ValueError, type(None), type(None), type(None)]
    assert [result.batch.size for result in results if result.batch] == [1, 1, 2, 2]
    assert engine.batch_size == 3


def test_a_lost_device_is_no_rows_fault(make: Callable[..., Engine], pipe: Any) -> None:
    def lost(*args: Any, **more: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    pipe.unet.forward = lost
    with pytest.raises(torch.AcceleratorError):
        list(make().paint([item(1), item(2)]))


def test_timings_memory_and_what_was_measured(make: Callable[..., Engine]) -> None:
    engine = make()
    assert engine.measured() == {} and engine.first_call == 0 and engine.largest_batch is None
    for _ in range(2):
        for result in engine.paint([item(1), item(2)]):
            stages = result.timings.model_dump(include={"encode_prompt", "vae_encode", "denoise", "vae_decode"})
            assert all(seconds > 0 for seconds in stages.values())
            assert result.timings.decode is result.timings.encode is None
            assert result.memory is not None and result.memory.peak_allocated > 50e6
    assert engine.painted == 4 and engine.largest_batch == 2
    assert engine.busy >= engine.measured()["denoise_seconds"] * 2
    (entry,) = engine.with_measured([LedgerEntry(name="x", requested="on", effective="on", matches=True)])
    assert entry.measured["rows_per_batch"] == 2


def test_an_upcast_vae_is_cast_back_even_when_it_fails() -> None:
    pipe = instantiate("tiny-random", dtype=torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    engine = Engine(SimpleNamespace(pipe=pipe), SimpleNamespace(batch_size=2))
    seen = []
    decode = pipe.vae.decode

    def watched(latents: torch.Tensor, *args: Any, **more: Any) -> Any:
        seen.append((latents.dtype, pipe.vae.dtype))
        if len(seen) == 2:
            raise ValueError("in the middle of it")
        return decode(latents, *args, **more)

    pipe.vae.decode = watched
    (fine,) = engine.paint([item(1)])
    image(fine)
    (failed,) = engine.paint([item(1)])
    assert isinstance(failed.error, ValueError)
    assert set(seen) == {(torch.float32, torch.float32)}
    assert pipe.vae.dtype == torch.float16


def test_rows_of_different_keys_are_no_batch(make: Callable[..., Engine]) -> None:
    with pytest.raises(ValueError, match="one size"):
        list(make().paint([item(1), item(2, key=KEY._replace(steps=2))]))


def test_other_sizes_and_shapes(make: Callable[..., Engine]) -> None:
    (wide,) = make().paint([item(1, key=KEY._replace(width=96, height=40))])
    assert image(wide).shape == (40, 96, 3)


def test_batcher_fills_buckets_and_empties_the_largest_first() -> None:
    batcher: Batcher[int] = Batcher()
    wide = KEY._replace(width=96)
    for row, key in enumerate([KEY, wide, wide, KEY, wide]):
        batcher.add(key, row)
    assert len(batcher) == 5
    assert batcher.take_full(4) == []
    assert batcher.take_full(3) == [1, 2, 4]
    batcher.add(wide, 5)
    assert batcher.take_largest(8) == [0, 3]
    assert batcher.take_largest(8) == [5]
    assert batcher.take_largest(8) == [] and len(batcher) == 0
