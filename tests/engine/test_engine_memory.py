"""Memory that runs out: the batch is halved, a single row is relieved, and what fits is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._inductor.exc import InductorError

from inpaint_ops.engine import Engine
from inpaint_ops.errors import DeviceOutOfMemoryError
from inpaint_ops.model.loading import LoadedModel
from inpaint_ops.records import DeviceInfo, ModelIdentity
from inpaint_ops.tuning import Tuning, choose, leaner
from tests.support.engine_parts import KEY, LEVELS, Remembering, SmallCard, difference, image, item

CARD = DeviceInfo(kind="cuda", name="a card", total_memory=80 * 10**9, free_memory=79 * 10**9)


@pytest.fixture
def make_loaded(make: Callable[..., Engine], pipe: Any) -> Iterator[Callable[..., Engine]]:
    """Engines on a LoadedModel, as the worker makes them: with the relief of low-memory."""

    def engine(batch_size: int, **options: Any) -> Engine:
        tuning = Tuning(batch_size=batch_size)
        loaded = LoadedModel(
            pipe, ModelIdentity(name="tiny-random", random_weights=True), 64, tuning, {}, torch.device("cpu")
        )
        return Engine(loaded, **options)

    yield engine
    for module in (pipe.vae.decoder, pipe.vae.encoder):
        module.__dict__.pop("forward", None)


def test_out_of_memory_halves_the_batch_and_remembers(make: Callable[..., Engine], pipe: Any) -> None:
    forward, heard = pipe.unet.forward, Remembering()

    def small_card(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        if len(sample) > 2 * 2:  # guidance doubles the rows
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return forward(sample, *args, **more)

    alone = [image(next(iter(make().paint([item(row)])))) for row in range(6)]
    pipe.unet.forward = small_card
    engine = make(batch_size=6, listener=heard)
    results = list(engine.paint([item(row) for row in range(6)]))
    assert engine.batch_size == 1  # 6, then 3, then 1
    assert [result.row for result in results] == list(range(6))
    assert all(difference(image(result), one) <= LEVELS for result, one in zip(results, alone, strict=True))
    assert len(heard.memory) == 2 and "3 from here on" in heard.memory[0]
    assert not heard.warnings

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


def test_a_byte_budget_finds_the_batch_that_fits_and_keeps_it(make_loaded: Callable[..., Engine], pipe: Any) -> None:
    heard = Remembering()
    engine = make_loaded(8, listener=heard)
    card = SmallCard(pipe, budget=100_000)  # a decode needs 40,960 a row: two fit
    rows = [item(row) for row in range(8)]
    first = list(engine.paint(rows))
    assert (engine.batch_size, len(heard.memory)) == (2, 2)  # 8, 4, 2
    assert [result.batch.size for result in first if result.batch] == [2] * 8
    refused = [wanted for wanted in card.asked if wanted > card.budget]
    again = list(engine.paint(rows))
    assert [wanted for wanted in card.asked if wanted > card.budget] == refused, "the size that fits is remembered"
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(image(one), image(other))


def test_a_single_row_that_does_not_fit_is_painted_with_low_memory_once_and_leaves_no_trace(
    make_loaded: Callable[..., Engine], pipe: Any
) -> None:
    heard = Remembering()
    engine = make_loaded(2, listener=heard)
    vae = pipe.vae
    before = (vae.use_tiling, vae.use_slicing, vae.tile_sample_min_size, vae.tile_latent_min_size)
    card = SmallCard(pipe, budget=50_000)
    large = item(2, key=KEY._replace(width=96, height=64))
    (painted,) = engine.paint([large])  # 61,440 whole, 10,240 in tiles of 32 pixels
    assert image(painted).shape == (64, 96, 3)
    assert engine.batch_size == 2
    assert len(heard.memory) == 1
    assert "low-memory" in heard.memory[0]
    assert (vae.use_tiling, vae.use_slicing, vae.tile_sample_min_size, vae.tile_latent_min_size) == before
    (fits,) = engine.paint([item(1)])
    assert image(fits).shape == (64, 64, 3)
    assert card.most == 64 * 64 * 10, "a row that fits is decoded whole again"


def test_a_row_that_does_not_even_fit_with_low_memory_fails_alone_after_one_more_try(
    make_loaded: Callable[..., Engine], pipe: Any
) -> None:
    engine = make_loaded(1)
    card = SmallCard(pipe, budget=41_000)
    huge = item(2, key=KEY._replace(width=192, height=192))  # the UNet alone wants 115,200
    (failed,) = engine.paint([huge])
    assert isinstance(failed.error, DeviceOutOfMemoryError)
    assert sum(wanted > card.budget for wanted in card.asked) == 2, "once as it was, once with low-memory"
    (fits,) = engine.paint([item(1)])
    image(fits)


def test_a_tuning_that_is_low_memory_already_has_nothing_left_to_try() -> None:
    assert leaner(choose(CARD, preset="low-memory").tuning, 1024) is None
    lean = leaner(choose(CARD, preset="auto").tuning, 1024)
    assert lean is not None
    assert (lean.vae_tiling, lean.vae_tile_size, lean.vae_slicing, lean.offload) == (True, 512, True, "model")
    compiled = leaner(choose(CARD, overrides={"compile": "regional"}).tuning, 1024)
    assert compiled is not None
    assert compiled.offload == "none"


def test_memory_that_ran_out_inside_the_compiler_halves_the_batch_and_keeps_compiling(
    make: Callable[..., Engine], pipe: Any
) -> None:
    forward, heard, uncompiled = pipe.unet.forward, Remembering(), []

    def small_card(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        if len(sample) > 2 * 2:
            raise InductorError(torch.OutOfMemoryError("CUDA out of memory"), None)
        return forward(sample, *args, **more)

    pipe.unet.forward = small_card
    engine = make(batch_size=4, listener=heard, is_compiled=True, uncompile=uncompiled.append)
    for result in engine.paint([item(row) for row in range(4)]):
        image(result)
    assert engine.batch_size == 2
    assert (len(heard.memory), heard.warnings, uncompiled) == (1, [], [])
