"""The engine with a real tiny SDXL pipeline of random weights, on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch

from inpaint_ops.config import Scheduler
from inpaint_ops.engine import Batcher, Engine
from inpaint_ops.errors import DeviceLostError, NonFiniteImageError, PromptError
from inpaint_ops.model import schedulers
from inpaint_ops.model.random_weights import instantiate
from inpaint_ops.records import LedgerEntry
from tests.support.engine_parts import KEY, LEVELS, Remembering, difference, image, item, painting_model


def test_a_batch_of_three_equals_three_singles(make: Callable[..., Engine]) -> None:
    rows = [item(1), item(2, prompt="a blue house", negative_prompt="blurry"), item(3, negative_prompt="")]
    together = list(make().paint(rows))
    assert [result.row for result in together] == [1, 2, 3]
    for row, result in zip(rows, together, strict=True):
        (single,) = make().paint([row])
        assert image(result).shape == (64, 64, 3) and image(result).dtype == np.uint8
        assert difference(image(result), image(single)) <= LEVELS
    assert {result.batch.size for result in together if result.batch} == {3}


LATENT_BOUND = 1e-4
"""By how much a latent may differ between a batch and by itself, as a share of the largest latent: float32, four steps.

One call of the UNet differs by about 2e-6 on a CPU, since other batch sizes add in another order; steps build on it.
"""


def test_a_rows_latents_do_not_depend_on_its_neighbours_beyond_float_noise(
    make: Callable[..., Engine], pipe: Any, say: Callable[[str], None]
) -> None:
    decode, seen = pipe.vae.decode, []
    pipe.vae.decode = lambda latents, *a, **k: (seen.append(latents.clone()), decode(latents, *a, **k))[1]
    rows = [item(1), item(2, prompt="a blue house"), item(3, negative_prompt="blurry"), item(4)]
    list(make(batch_size=4).paint(rows))
    (together,) = seen
    worst = 0.0
    for number, row in enumerate(rows):
        seen.clear()
        list(make().paint([row]))
        (alone,) = seen
        assert alone.abs().max() > 0.01, "there is something to differ"
        worst = max(worst, float((together[number] - alone[0]).abs().max() / together.abs().max()))
    say(f"a row's latents differ by {worst:.1e} of the largest between a batch of four and by itself")
    assert worst <= LATENT_BOUND
    seen.clear()
    list(make().paint([item(1, seed=99)]))
    other = float((together[0] - seen[0][0]).abs().max() / together.abs().max())
    assert other > 100 * LATENT_BOUND, "the bound tells another seed's row apart"


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
    heard = Remembering()
    engine = make(listener=heard)
    (result,) = engine.paint([item(1, key=KEY._replace(steps=steps, strength=strength))])
    assert result.steps == ran
    assert heard.steps == [(step, ran) for step in range(1, ran + 1)]


@pytest.mark.parametrize("strength", [0.5, 0.9999, 1.0])
@pytest.mark.parametrize("name", get_args(Scheduler))
def test_every_scheduler_paints_and_records_the_steps_that_ran(
    make: Callable[..., Engine], pipe: Any, name: Scheduler, strength: float
) -> None:
    """Counted at the UNet: with a second-order scheduler (heun) a step calls it twice, but for the last."""
    own, forward, calls = pipe.scheduler, pipe.unet.forward, []
    schedulers.apply(pipe, name)
    try:
        assert schedulers.inspect(pipe, name).matches
        assert schedulers.inspect(pipe, name).effective == ("euler" if name == "model" else name)
        pipe.unet.forward = lambda *a, **k: (calls.append(1), forward(*a, **k))[1]
        (result,) = make().paint([item(1, key=KEY._replace(steps=6, strength=strength))])
        image(result)
        assert -(-len(calls) // pipe.scheduler.order) == result.steps
        assert result.steps <= 6
    finally:
        pipe.scheduler = own


def test_schedulers_differ_in_what_they_paint(make: Callable[..., Engine], pipe: Any) -> None:
    own, painted = pipe.scheduler, {}
    for name in get_args(Scheduler):
        schedulers.apply(pipe, name)
        painted[name] = image(next(iter(make().paint([item(1)])))).tobytes()
        pipe.scheduler = own
    assert painted.pop("model") == painted["euler"]
    for name in ("ddim", "ddim_trailing"):  # without noise of its own, and with latents not cut off: Euler's steps
        painted.pop(name)
    assert len(set(painted.values())) == len(painted)


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


def test_encoders_are_released_once_the_prompts_are_known_and_the_images_stay(
    make: Callable[..., Engine], pipe: Any
) -> None:
    rows = [item(1, prompt="a"), item(2, prompt="b", negative_prompt="c"), item(3, prompt="a", negative_prompt="")]
    before = list(make().paint(rows))
    encoders = (pipe.text_encoder, pipe.text_encoder_2)
    weights = sum(value.numel() * 4 for encoder in encoders for value in encoder.parameters())
    heard = Remembering()
    engine = make(listener=heard)
    engine.prepare_prompts(["a", "b", "c", "a"])
    assert heard.prompts == [(1, 4), (2, 4), (3, 4), (4, 4)], "the empty text is the fourth"
    engine.release_text_encoders()
    assert pipe.text_encoder is pipe.text_encoder_2 is None
    assert engine.released_bytes == weights
    for one, other in zip(before, engine.paint(rows), strict=True):
        assert np.array_equal(image(one), image(other))
    known, unknown = engine.paint([item(1, prompt="b"), item(2, prompt="nobody spoke of this")])
    image(known)
    assert isinstance(unknown.error, PromptError)
    assert "not among the job's prompts" in str(unknown.error)
    release = LedgerEntry(name="release_text_encoders", requested="on", effective="on", matches=True)
    (entry,) = engine.with_measured([release])
    assert entry.measured["released_bytes"] == weights
    assert entry.measured["texts_encoded"] == len(heard.prompts)


def test_a_text_that_cannot_be_encoded_fails_its_row_alone(make: Callable[..., Engine], pipe: Any) -> None:
    encode = pipe.encode_prompt

    def picky(*args: Any, prompt: Any = None, **more: Any) -> Any:
        if prompt == "poison":
            raise ValueError("no such character")
        return encode(*args, prompt=prompt, **more)

    pipe.encode_prompt = picky
    engine = make()
    engine.prepare_prompts(["a", "poison"])
    engine.release_text_encoders()
    fine, poisoned = engine.paint([item(1, prompt="a"), item(2, prompt="poison")])
    image(fine)
    assert isinstance(poisoned.error, PromptError)
    assert "no such character" in str(poisoned.error)


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
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        list(make().paint([item(1), item(2)]))


def test_timings_memory_and_what_was_measured(make: Callable[..., Engine]) -> None:
    engine = make()
    assert engine.measurements.means() == {} and engine.measurements.first_call == 0
    assert engine.measurements.largest_batch is None
    for _ in range(2):
        for result in engine.paint([item(1), item(2)]):
            stages = result.timings.model_dump(include={"encode_prompt", "vae_encode", "denoise", "vae_decode"})
            assert all(seconds > 0 for seconds in stages.values())
            assert result.timings.decode is result.timings.encode is None
            assert result.memory is not None and result.memory.peak_allocated > 50e6
    assert engine.measurements.painted == 4 and engine.measurements.largest_batch == 2
    assert engine.measurements.busy >= engine.measurements.means()["denoise_seconds"] * 2
    (entry,) = engine.with_measured([LedgerEntry(name="x", requested="on", effective="on", matches=True)])
    assert entry.measured["rows_per_batch"] == 2


def test_an_upcast_vae_is_cast_back_even_when_it_fails() -> None:
    pipe = instantiate("tiny-random", dtype=torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    engine = Engine(painting_model(pipe, 2))
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
