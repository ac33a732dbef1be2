"""Guidance that ends before the last step: what is painted, what is recorded, and that nothing changes without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image

from inpaint_ops.config import Scheduler
from inpaint_ops.engine import Engine, PaintItem, PaintResult
from inpaint_ops.model import schedulers
from inpaint_ops.model.random_weights import instantiate
from inpaint_ops.protocol import guided_steps
from tests.support import single_files
from tests.support.engine_parts import KEY, LEVELS, difference, image, item, painting_model

HALF = KEY._replace(steps=6, strength=1.0, guidance_cutoff=0.5)
SAME = 1e-4
"""By how much latents may differ, as a share of the largest: see LATENT_BOUND of test_engine.py."""


@pytest.mark.parametrize(
    ("steps", "cutoff", "guided"),
    [(10, 0.3, 3), (29, 0.6, 18), (30, 0.5, 15), (3, 0.5, 2), (1, 0.01, 1), (4, 0.9, 4), (500, 0.001, 1), (7, 1.0, 7)],
)
def test_a_share_of_a_step_counts_as_a_step(steps: int, cutoff: float, guided: int) -> None:
    assert guided_steps(steps, cutoff) == guided


@contextmanager
def unet_batches(pipe: Any) -> Iterator[list[int]]:
    """How many samples each call of the UNet inside the block gets."""
    forward, sizes = pipe.unet.forward, []

    def seen(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        sizes.append(len(sample))
        return forward(sample, *args, **more)

    pipe.unet.forward = seen
    try:
        yield sizes
    finally:
        pipe.unet.forward = forward


def latents(pipe: Any, rows: list[PaintItem], batch_size: int = 4) -> torch.Tensor:
    """The final latents of rows that are painted together, as they are decoded."""
    decode, seen = pipe.vae.decode, []
    pipe.vae.decode = lambda x, *a, **k: (seen.append(x.clone()), decode(x, *a, **k))[1]
    try:
        for result in Engine(painting_model(pipe, batch_size)).paint(rows):
            image(result)
    finally:
        del pipe.vae.decode
    return torch.cat(seen)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape and one.abs().max() > 0.01
    return float((one - other).abs().max() / one.abs().max())


def by_hand(pipe: Any, row: PaintItem, guided: int) -> torch.Tensor:
    """The latents of one row by a loop of our own over the pipeline's parts: no call of the pipeline, one image, and
    each step's two predictions by two calls of the UNet.
    """
    key, scheduler, unet, vae = row.key, pipe.scheduler, pipe.unet, pipe.vae
    with torch.inference_mode():
        embeds = {}
        for name, text in (("with", row.prompt), ("without", row.negative_prompt)):
            tokens, _, pooled, _ = pipe.encode_prompt(prompt=text or "", do_classifier_free_guidance=False)
            if text is None and pipe.config.force_zeros_for_empty_prompt:
                tokens, pooled = torch.zeros_like(tokens), torch.zeros_like(pooled)
            embeds[name] = tokens, pooled
        ids = torch.tensor([[key.height, key.width, 0, 0, key.height, key.width]], dtype=torch.float32)
        generator = torch.Generator("cpu").manual_seed(row.seed)
        picture = pipe.image_processor.preprocess(Image.fromarray(row.rgb), height=key.height, width=key.width)
        mask = pipe.mask_processor.preprocess(Image.fromarray(row.mask), height=key.height, width=key.width)
        scheduler.set_timesteps(key.steps)
        begin = max(key.steps - min(int(key.steps * key.strength), key.steps), 0) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        times = scheduler.timesteps[begin:]

        def encoded(pixels: torch.Tensor) -> torch.Tensor:
            return vae.encode(pixels).latent_dist.sample(generator=generator) * vae.config.scaling_factor

        shape = (1, 4, key.height // 8, key.width // 8)
        source = encoded(picture) if key.strength < 1 or unet.config.in_channels == 4 else None
        noise = torch.randn(shape, generator=generator)
        x = noise * scheduler.init_noise_sigma
        if key.strength < 1:
            x = scheduler.add_noise(source, noise, times[:1])
        small = torch.nn.functional.interpolate(mask, size=shape[2:])
        visible = encoded(picture * (mask < 0.5))
        for at, time in enumerate(times):
            sample = scheduler.scale_model_input(x, time)
            if unet.config.in_channels == 9:
                sample = torch.cat([sample, small, visible], dim=1)
            found = {
                name: unet(sample, time, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample
                for name, (tokens, pooled) in embeds.items()
            }
            predicted = found["with"]
            if at < guided * scheduler.order:
                predicted = found["without"] + key.guidance_scale * (found["with"] - found["without"])
            x = scheduler.step(predicted, time, x, return_dict=False)[0]
            if unet.config.in_channels == 4:
                kept = source if at == len(times) - 1 else scheduler.add_noise(source, noise, times[at + 1 : at + 2])
                x = (1 - small) * kept + small * x
    return x / vae.config.scaling_factor


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "ddim"])
@pytest.mark.parametrize("channels", [9, 4])
def test_the_latents_are_those_of_a_loop_written_by_hand(channels: int, name: Scheduler, strength: float) -> None:
    """Each of two rows of a batch, at the end; the same loop with guidance to the end gives something else."""
    pipe: Any = instantiate("tiny-random")
    pipe = pipe if channels == 9 else single_files.plain(pipe)
    pipe.set_progress_bar_config(disable=True)
    schedulers.apply(pipe, name)
    key = HALF._replace(strength=strength)
    rows = [item(1, key=key, negative_prompt="blurry"), item(2, key=key, prompt="a blue house")]
    ran = 6 if strength == 1 else 3
    together = latents(pipe, rows)
    for number, row in enumerate(rows):
        assert apart(by_hand(pipe, row, guided_steps(ran, 0.5)), together[number : number + 1]) <= SAME
        assert apart(by_hand(pipe, row, ran), together[number : number + 1]) > 10 * SAME
        assert apart(by_hand(pipe, row, ran), latents(pipe, [item(row.row, key=key._replace(guidance_cutoff=1.0),
                     prompt=row.prompt, negative_prompt=row.negative_prompt)])) <= SAME  # fmt: skip


def test_a_row_does_not_depend_on_its_batch(make: Callable[..., Engine], pipe: Any) -> None:
    rows = [item(1, key=HALF), item(2, key=HALF, prompt="a blue house", negative_prompt="blurry"), item(3, key=HALF)]
    together = latents(pipe, rows)
    painted = [image(result) for result in make().paint(rows)]
    for number, row in enumerate(rows):
        assert apart(latents(pipe, [row]), together[number : number + 1]) <= SAME
        (single,) = make().paint([row])
        assert difference(image(single), painted[number]) <= LEVELS


def test_the_unet_gets_half_of_each_batch_from_the_cutoff_on(make: Callable[..., Engine], pipe: Any) -> None:
    with unet_batches(pipe) as sizes:
        results = list(make().paint([item(1, key=HALF), item(2, key=HALF)]))
    assert sizes == [4, 4, 4, 2, 2, 2]
    assert [(result.steps, result.unguided_steps, result.notes) for result in results] == [(6, 3, ())] * 2
    with unet_batches(pipe) as sizes:
        list(make().paint([item(1), item(2)]))
    assert sizes == [4, 4, 4], "the next call has guidance again"


@pytest.mark.parametrize("strength", [0.5, 0.9999, 1.0])
@pytest.mark.parametrize("name", get_args(Scheduler))
def test_every_scheduler_records_the_steps_that_ran_without_guidance(
    make: Callable[..., Engine], pipe: Any, name: Scheduler, strength: float
) -> None:
    """Counted at the UNet: heun calls it twice per step, but for the last."""
    own = pipe.scheduler
    schedulers.apply(pipe, name)
    try:
        with unet_batches(pipe) as sizes:
            (result,) = make().paint([item(1, key=HALF._replace(strength=strength))])
        image(result)
        order = pipe.scheduler.order
        assert result.steps - result.unguided_steps == guided_steps(result.steps, 0.5)
        assert sizes.count(2) == order * (result.steps - result.unguided_steps), "a step's calls are not torn apart"
        assert sizes == sorted(sizes, reverse=True) and sizes.count(1) == len(sizes) - sizes.count(2)
        assert result.unguided_steps >= 1
    finally:
        pipe.scheduler = own


def test_without_a_cutoff_the_pipeline_is_called_as_it_always_was(
    make: Callable[..., Engine], pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte what the pipeline paints that is handed nothing back; only the latents are asked for."""
    rows = [item(1), item(2, negative_prompt="blurry")]
    asked = []
    call = StableDiffusionXLInpaintPipeline.__call__

    def watched(self: Any, *args: Any, **more: Any) -> Any:
        asked.append(more.pop("callback_on_step_end_tensor_inputs"))
        steps = more.pop("callback_on_step_end")
        ended = call(self, *args, **more)
        steps.ran = 3
        return ended

    with_callback = [image(result).tobytes() for result in make().paint(rows)]
    monkeypatch.setattr(StableDiffusionXLInpaintPipeline, "__call__", watched)
    assert [image(result).tobytes() for result in make().paint(rows)] == with_callback
    assert asked == [["latents"]]


def entry_of(engine: Engine) -> Any:
    found = [one for one in engine.with_measured(()) if one.name == "guidance_cutoff"]
    return found[0] if found else None


def only(results: Any) -> PaintResult:
    (result,) = results
    return result


def test_the_ledger_says_what_became_of_it(make: Callable[..., Engine]) -> None:
    engine = make()
    image(only(engine.paint([item(1)])))
    assert entry_of(engine) is None, "nobody asked"
    image(only(engine.paint([item(1, key=HALF)])))
    image(only(engine.paint([item(1, key=HALF._replace(guidance_cutoff=0.7))])))
    entry = entry_of(engine)
    assert (entry.requested, entry.effective, entry.matches) == ("0.5, 0.7", "0.5, 0.7", True)
    assert (entry.measured["batch_steps"], entry.measured["batch_steps_without_guidance"]) == (12, 4)
    assert entry.measured["denoise_seconds"] > 0

    few = only(engine.paint([item(1, key=HALF._replace(steps=2, guidance_cutoff=0.9))]))
    assert (few.steps, few.unguided_steps) == (2, 0)
    assert few.notes == ("guidance_cutoff 0.9 had no effect: with 2 steps it leaves none without guidance",)
    entry = entry_of(engine)
    assert (entry.requested, entry.effective, entry.matches) == ("0.5, 0.7, 0.9", "0.5, 0.7, 0.9 for some rows", False)
    assert "with 2 steps it leaves none" in entry.reason


def test_where_guidance_is_off_it_has_no_effect_and_says_so(make: Callable[..., Engine], pipe: Any) -> None:
    engine = make()
    off = HALF._replace(guidance_scale=1.0)
    result = only(engine.paint([item(1, key=off)]))
    assert (result.steps, result.unguided_steps) == (6, 0)
    assert result.notes == ("guidance_cutoff 0.5 had no effect: guidance is off (guidance_scale 1)",)
    plain = only(make().paint([item(1, key=off._replace(guidance_cutoff=1.0))]))
    assert np.array_equal(image(result), image(plain))
    entry = entry_of(engine)
    assert (entry.effective, entry.matches) == ("off", False)


def test_a_model_that_takes_the_scale_as_an_input_says_so() -> None:
    pipe: Any = instantiate("tiny-random")
    width = pipe.unet.time_embedding.linear_1.in_features
    pipe.unet.time_embedding.cond_proj = torch.nn.Linear(8, width, bias=False)
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    engine = Engine(painting_model(pipe))
    result = only(engine.paint([item(1, key=HALF)]))
    image(result)
    assert result.unguided_steps == 0
    (note,) = result.notes
    assert note == (
        "guidance_cutoff 0.5 had no effect: the model takes the guidance scale as an input, and paints each step once"
    )
    assert not entry_of(engine).matches


def test_rows_of_different_cutoffs_are_no_batch(make: Callable[..., Engine]) -> None:
    with pytest.raises(ValueError, match="one guidance with one cutoff"):
        list(make().paint([item(1, key=HALF), item(2, key=HALF._replace(guidance_cutoff=0.6))]))
