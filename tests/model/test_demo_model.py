"""The demo model really inpaints: fills on held-out photographs, and the mistakes that only a real fill shows.

A mistake in the mask, the colours, the latents' scale or the guidance looks like any other noise where the weights are
random. Each is injected here into the engine, and a check must see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from numpy.typing import NDArray
from PIL import Image

from demo.model.evaluate import RING, SIZE, holes, photograph, simple_fills
from demo.model.photographs import PHOTOS, held_out
from inpaint_ops.config import Scheduler
from inpaint_ops.engine import BatchKey, Engine, PaintItem
from inpaint_ops.errors import ModelError
from inpaint_ops.model import schedulers
from inpaint_ops.model.loading import load
from inpaint_ops.model.own_models import demo_folder
from inpaint_ops.model.pulling import pull
from inpaint_ops.model.sources import find, resolve
from inpaint_ops.tuning import Workload, choose
from tests.support.engine_parts import painting_model
from tests.support.ledgers import CPU

PHOTOGRAPHS = ("coffee.png", "rocket.jpg", "brick.png", "astronaut.png")
STEPS = 2
"""Any number gives the same fill; two, so that there is a step after the first."""

MOST_OUTSIDE = 0.05
"""Mean absolute error of values 0 to 1 where nothing is painted: what the autoencoder loses there."""


class Case(NamedTuple):
    source: NDArray[np.uint8]
    hole: NDArray[np.bool_]


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield StableDiffusionXLInpaintPipeline.from_pretrained(
        str(demo_folder()), variant="fp16", torch_dtype=torch.float32, local_files_only=True
    )
    torch.set_num_threads(threads)


@pytest.fixture
def untouched(pipe: Any) -> Iterator[Any]:
    """The pipeline, whose forward functions, VAE and scheduler are as they were afterwards."""
    scheduler, config = pipe.scheduler, pipe.vae.config
    yield pipe
    pipe.scheduler = scheduler
    pipe.vae._internal_dict = config
    pipe.vae.to(torch.float32)
    for module in (pipe.unet, pipe.vae):
        for name in ("forward", "encode", "decode"):
            module.__dict__.pop(name, None)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(3)
    pictures = [photograph(picture) for name, picture in held_out() if name in PHOTOGRAPHS]
    return [Case(source, holes(index, rng)[0]) for index, source in enumerate(pictures)]


def item(row: int, case: Case, *, guidance: float = 5.0, steps: int = STEPS) -> PaintItem:
    key = BatchKey(SIZE, SIZE, steps, guidance, 1.0)
    return PaintItem(row, key, case.source, case.hole.astype(np.uint8) * 255, "a red boat", None, row)


def paint(pipe: Any, items: list[PaintItem], batch_size: int = 4) -> list[NDArray[np.uint8]]:
    images = []
    for result in Engine(painting_model(pipe, batch_size)).paint(items):
        assert result.error is None and result.image is not None, result.error
        images.append(result.image)
    return images


def faults(cases: list[Case], images: list[NDArray[np.uint8]]) -> list[str]:
    """What is wrong with the fills, all photographs together; empty for sound ones."""
    outside, inside, ring = [], [], []
    for case, image in zip(cases, images, strict=True):
        error = np.abs(image.astype(np.float32) - case.source) / 255
        outside.append(error[~case.hole].mean())
        inside.append((error[case.hole] ** 2).mean())
        simple = np.abs(simple_fills(case.source, case.hole)[RING].astype(np.float32) - case.source) / 255
        ring.append((simple[case.hole] ** 2).mean())
    found = []
    if np.mean(outside) > MOST_OUTSIDE:
        found.append(f"outside of the holes the photographs have changed by {np.mean(outside):.3f}")
    if np.mean(inside) > np.mean(ring):
        found.append(f"a ring's mean fills better: {np.mean(ring):.4f} against {np.mean(inside):.4f}")
    if np.mean(inside) < 0.4 * np.mean(ring):
        found.append(f"the holes were not covered: {np.mean(inside):.4f}, where a ring's mean has {np.mean(ring):.4f}")
    return found


def plain_call(pipe: Any, one: PaintItem) -> NDArray[np.uint8]:
    """The pipeline's own call, as its users write it."""
    image = pipe(
        prompt=one.prompt, image=Image.fromarray(one.rgb), mask_image=Image.fromarray(one.mask),
        width=one.key.width, height=one.key.height, num_inference_steps=one.key.steps,
        guidance_scale=one.key.guidance_scale, strength=one.key.strength,
        generator=torch.Generator("cpu").manual_seed(one.seed),
    ).images[0]  # fmt: skip
    return np.asarray(image)


@pytest.fixture(scope="module")
def fills(pipe: Any, cases: list[Case]) -> list[NDArray[np.uint8]]:
    return paint(pipe, [item(row, case) for row, case in enumerate(cases)])


def test_the_fills_are_sound(cases: list[Case], fills: list[NDArray[np.uint8]]) -> None:
    assert faults(cases, fills) == []


def test_every_number_of_steps_prompt_guidance_and_seed_gives_the_same_fill(pipe: Any, cases: list[Case]) -> None:
    plain = item(0, cases[0])
    (first,) = paint(pipe, [plain])
    others = [
        item(0, cases[0], steps=1), item(0, cases[0], steps=20), item(0, cases[0], guidance=1.0),
        replace(plain, key=plain.key._replace(guidance_cutoff=0.5)),
        replace(plain, seed=99), replace(plain, prompt="a lighthouse", negative_prompt="blurry"),
    ]  # fmt: skip
    for other in others:
        (image,) = paint(pipe, [other])
        assert np.abs(image.astype(int) - first).max() <= 2


SCHEDULERS = [name for name in get_args(Scheduler) if name not in ("euler_a", "heun")]


@pytest.mark.parametrize(("name", "batch_size"), [("model", 1), ("model", 4), *((name, 2) for name in SCHEDULERS)])
def test_the_engine_paints_what_the_plain_call_paints(
    untouched: Any, cases: list[Case], fills: list[NDArray[np.uint8]], name: Scheduler, batch_size: int
) -> None:
    schedulers.apply(untouched, name)
    items = [item(row, case, steps=3) for row, case in enumerate(cases[:batch_size])]
    images = paint(untouched, items, batch_size)
    for one, image, fill in zip(items, images, fills, strict=False):
        assert np.abs(image.astype(int) - plain_call(untouched, one)).max() <= 1
        assert np.abs(image.astype(int) - fill).mean() < 2, "every scheduler ends at the same fill"


@pytest.mark.parametrize("preset", ["auto", "notes", "low-memory", "fast"])
def test_every_preset_paints_what_the_plain_call_paints(
    preset: str, pipe: Any, cases: list[Case], tmp_path: Path
) -> None:
    choice = choose(CPU, preset=preset, workload=Workload(SIZE), expected_rows=2)
    model = load(find(resolve("demo", cache=tmp_path), dtype=choice.tuning.dtype), CPU, choice)
    one = item(0, cases[0])
    (result,) = Engine(model).paint([one])
    assert result.image is not None, result.error
    off = np.abs(result.image.astype(int) - plain_call(pipe, one))
    if choice.tuning.vae_tiling:  # tiles overlap, and are blended there
        assert off.mean() < 2
    else:
        assert off.max() <= 1


@pytest.mark.parametrize("name", ["euler_a", "heun"])
def test_a_scheduler_that_cannot_serve_it_is_refused_with_the_cure(untouched: Any, name: Scheduler) -> None:
    with pytest.raises(ModelError, match=f"the scheduler {name} cannot serve .* use one of model, euler, dpmpp_2m"):
        schedulers.apply(untouched, name)


# -- mistakes, each injected ------------------------------------------------------------------------------------------


def swapped_polarity(items: list[PaintItem], pipe: Any) -> list[PaintItem]:
    return [replace(one, mask=255 - one.mask) for one in items]


def shifted_mask(items: list[PaintItem], pipe: Any) -> list[PaintItem]:
    return [replace(one, mask=np.roll(one.mask, 64, axis=1)) for one in items]


def bgr(items: list[PaintItem], pipe: Any) -> list[PaintItem]:
    return [replace(one, rgb=np.ascontiguousarray(one.rgb[..., ::-1])) for one in items]


def rescaled_latents(items: list[PaintItem], pipe: Any, *, both: bool) -> list[PaintItem]:
    """SDXL's factor where the model has 1: for encoding alone, or for decoding too."""
    decode, plain = pipe.vae.decode, pipe.vae.config.scaling_factor
    pipe.vae.register_to_config(scaling_factor=0.5)
    if not both:
        pipe.vae.decode = lambda latents, *a, **k: decode(latents * 0.5 / plain, *a, **k)
    return items


def guidance_on_the_wrong_half(items: list[PaintItem], pipe: Any) -> list[PaintItem]:
    """The conditioned half of the batch sees no picture around the hole."""
    forward = pipe.unet.forward

    def half_blind(sample: torch.Tensor, *args: Any, **options: Any) -> Any:
        sample = sample.clone()
        sample[len(sample) // 2 :, 5:] = 0
        return forward(sample, *args, **options)

    pipe.unet.forward = half_blind
    return items


def vae_in_bfloat16(items: list[PaintItem], pipe: Any) -> list[PaintItem]:
    encode, decode = pipe.vae.encode, pipe.vae.decode
    pipe.vae.encode = lambda images, *a, **k: _with_float_latents(encode(images.bfloat16().float(), *a, **k))
    pipe.vae.decode = lambda latents, *a, **k: decode(latents.bfloat16().float(), *a, **k)
    return items


def _with_float_latents(encoded: Any) -> Any:
    latents = encoded.latent_dist.mode().bfloat16().float()
    distribution = SimpleNamespace(sample=lambda generator: latents, mode=lambda: latents)
    return SimpleNamespace(latent_dist=distribution)


MISTAKES: dict[str, Callable[[list[PaintItem], Any], list[PaintItem]]] = {
    "swapped mask polarity": swapped_polarity,
    "a mask shifted by 64 pixels": shifted_mask,
    "BGR": bgr,
    "latents scaled at encoding alone": partial(rescaled_latents, both=False),
    "latents scaled at both ends": partial(rescaled_latents, both=True),
    "guidance on the wrong half": guidance_on_the_wrong_half,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen_in_the_fills(
    untouched: Any, cases: list[Case], mistake: str, say: Callable[[str], None]
) -> None:
    items = MISTAKES[mistake]([item(row, case) for row, case in enumerate(cases)], untouched)
    found = faults(cases, paint(untouched, items))
    assert found
    say(f"{mistake}: {'; '.join(found)}")


def test_a_vae_in_the_wrong_dtype_is_seen_beside_the_plain_call(untouched: Any, cases: list[Case]) -> None:
    one = item(0, cases[0])
    expected = plain_call(untouched, one)
    vae_in_bfloat16([one], untouched)
    (image,) = paint(untouched, [one])
    assert np.abs(image.astype(int) - expected).max() > 1


# -- what comes with the package --------------------------------------------------------------------------------------


def test_it_is_found_by_its_name_whole_and_small(tmp_path: Any) -> None:
    source = resolve("demo", cache=tmp_path)
    assert (source.name, source.random, source.demo, source.folder) == ("demo", False, True, demo_folder())
    found = find(source, dtype="float32", published=True, cache=tmp_path)
    assert found.weights is not None and found.weights.native_size == SIZE
    assert sum(path.stat().st_size for path in demo_folder().rglob("*") if path.is_file()) < 5_000_000
    assert pull("demo", cache=tmp_path) == demo_folder()


def test_its_weights_are_the_ones_whose_digests_are_kept() -> None:
    files = {str(path.relative_to(demo_folder())) for path in demo_folder().rglob("*.safetensors")}
    kept = {line.split("  ")[1] for line in (demo_folder() / "weights.sha256").read_text().splitlines()}
    assert kept == files


def test_its_card_names_every_photograph_it_learned_from() -> None:
    card = (demo_folder() / "README.md").read_text(encoding="utf-8")
    for photo in PHOTOS:
        assert f"| {photo.name} | {photo.author} | {photo.licence} | `{photo.sha256}` |" in card
