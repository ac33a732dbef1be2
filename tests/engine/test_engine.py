"""The engine with a real tiny SDXL pipeline of random weights, on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch._inductor.exc import InductorError

from inpaint_ops.config import Scheduler
from inpaint_ops.device import describe
from inpaint_ops.engine import Batcher, BatchKey, Engine, PaintItem, PaintResult
from inpaint_ops.errors import DeviceLostError, DeviceOutOfMemoryError, NonFiniteImageError, PromptError
from inpaint_ops.model import schedulers, tuned
from inpaint_ops.model.compiled import figures, undo
from inpaint_ops.model.loading import LoadedModel
from inpaint_ops.model.random_weights import instantiate
from inpaint_ops.records import DeviceInfo, LedgerEntry, ModelIdentity
from inpaint_ops.tuning import Tuning, choose, leaner
from tests.support.engine_parts import Remembering, painting_model

CARD = DeviceInfo(kind="cuda", name="a card", total_memory=80 * 10**9, free_memory=79 * 10**9)
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
        own = {name: options.pop(name) for name in ("listener", "prompts_kept") if name in options}
        return Engine(painting_model(pipe, batch_size, **options), **own)

    encoders = pipe.text_encoder, pipe.text_encoder_2
    yield engine
    pipe.text_encoder, pipe.text_encoder_2 = encoders
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
    painted.pop("ddim")  # without noise of its own, and with latents that are not cut off, it takes Euler's steps
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


class SmallCard:
    """A card with a byte budget, around a real pipeline: it counts what the UNet and the VAE are given.

    A UNet sample (with its guidance twin) takes `sample` bytes a latent pixel, a VAE call `pixel` bytes per pixel.
    """

    def __init__(self, pipe: Any, budget: int, sample: int = 100, pixel: int = 10) -> None:
        self.budget, self.most, self.asked = budget, 0, []
        unet, decoder, encoder = pipe.unet.forward, pipe.vae.decoder.forward, pipe.vae.encoder.forward
        pipe.unet.forward = lambda x, *a, **k: (self.need(x, sample), unet(x, *a, **k))[1]
        pipe.vae.decoder.forward = lambda x, *a, **k: (self.need(x, pixel * 64), decoder(x, *a, **k))[1]
        pipe.vae.encoder.forward = lambda x, *a, **k: (self.need(x, pixel), encoder(x, *a, **k))[1]

    def need(self, tensor: torch.Tensor, each: int) -> None:
        wanted = tensor.shape[0] * tensor.shape[2] * tensor.shape[3] * each
        self.asked.append(wanted)
        if wanted > self.budget:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {wanted} bytes of {self.budget}")
        self.most = max(self.most, wanted)


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


@pytest.fixture
def compiled(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The pipeline with its repeated blocks compiled by dynamo, without the backend's minutes of C++."""
    monkeypatch.setattr(tuned, "BACKEND", "eager")
    torch._dynamo.reset()
    assert tuned.apply(pipe, Tuning(attention="default", compile="regional"), describe("cpu")) == {}
    yield
    undo(pipe)
    torch._dynamo.reset()


def test_a_compiled_model_gets_few_shapes_of_batches(make: Callable[..., Engine], pipe: Any, compiled: None) -> None:
    """Of each working size, 1, 2 and 4 rows compile once; 3 are filled up to 4."""
    wide = KEY._replace(width=96)
    alone = {row: image(next(iter(make().paint([item(row)])))) for row in (1, 2, 3)}
    torch._dynamo.reset()
    engine = make(batch_size=4, is_compiled=True)
    before = figures()["graphs"]

    def paint(*rows: PaintItem) -> float:
        results = list(engine.paint(rows))
        assert [result.row for result in results] == [row.row for row in rows]
        for result in results:
            assert result.batch is not None
            assert result.batch.size == len(rows), "the record has the rows, not what filled the batch up"
            if result.row in alone:
                assert difference(image(result), alone[result.row]) <= LEVELS
        return figures()["graphs"] - before

    seen = [paint(*(item(row) for row in range(1, size + 1))) for size in (4, 3, 2, 1)]
    seen.append(paint(*(item(row, key=wide) for row in range(11, 15))))
    assert 0 < seen[0] == seen[1] < seen[2] < seen[3] < seen[4]
    for size in (1, 2, 3, 4, 1):
        assert paint(*(item(row) for row in range(1, size + 1))) == seen[-1]
    assert paint(*(item(row, key=wide) for row in range(11, 14))) == seen[-1]
    assert engine.measurements.painted == (4 + 3 + 2 + 1 + 4) + (1 + 2 + 3 + 4 + 1) + 3


def test_without_a_fixed_size_the_last_batch_would_recompile(make: Callable[..., Engine], compiled: None) -> None:
    """What the test above rests on: three rows are another shape than four."""
    engine = make(batch_size=4)
    list(engine.paint([item(row) for row in range(4)]))
    before = figures()["graphs"]
    list(engine.paint([item(row) for row in range(3)]))
    assert figures()["graphs"] > before


def test_out_of_memory_counts_what_fills_the_batch_up(make: Callable[..., Engine], pipe: Any) -> None:
    SmallCard(pipe, budget=2 * 2 * 64 * 100, pixel=1)  # two rows with guidance, whatever the rows asked for
    engine = make(4, is_compiled=True)
    results = list(engine.paint([item(1), item(2), item(3)]))
    assert engine.batch_size == 2
    assert [result.batch.size for result in results if result.batch is not None] == [2, 2, 1]


def test_a_compiler_that_fails_leaves_the_model_to_run_without(
    make: Callable[..., Engine], pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction")

    (plain,) = make().paint([item(1)])
    monkeypatch.setattr(tuned, "BACKEND", broken)
    torch._dynamo.reset()
    tuning = Tuning(attention="default", compile="regional", batch_size=2)
    assert tuned.apply(pipe, tuning, describe("cpu")) == {}
    identity = ModelIdentity(name="tiny-random", random_weights=True)
    loaded = LoadedModel(pipe, identity, 64, tuning, {}, torch.device("cpu"))
    assert loaded.is_compiled
    heard = Remembering()
    engine = Engine(loaded, heard)
    (result,) = engine.paint([item(1)])
    assert difference(image(result), image(plain)) <= LEVELS
    assert len(heard.warnings) == 1
    assert "no such instruction" in heard.warnings[0]
    assert not loaded.is_compiled
    (entry,) = (entry for entry in loaded.ledger if entry.name == "compile")
    assert not entry.matches
    assert "compiling failed" in entry.reason


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


def test_a_graph_that_cannot_be_captured_costs_the_compiler_and_not_the_device(
    make: Callable[..., Engine], pipe: Any
) -> None:
    forward, heard = pipe.unet.forward, Remembering()

    def captured(*args: Any, **more: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")

    def uncompile(error: Exception) -> None:
        pipe.unet.forward = forward

    pipe.unet.forward = captured
    for result in make(listener=heard, is_compiled=True, uncompile=uncompile).paint([item(1), item(2)]):
        image(result)
    assert len(heard.warnings) == 1 and "capture" in heard.warnings[0]


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


def test_what_was_spent_compiling_is_no_painting(make: Callable[..., Engine]) -> None:
    spent = iter([0.0, 1000.0, 1000.0, 1000.0])  # before and after each batch: the first one compiles
    engine = make(compile_seconds=lambda: next(spent))
    painted = [result for row in (1, 2) for result in engine.paint([item(row)])]
    stages = ("encode_prompt", "vae_encode", "denoise", "vae_decode")
    total = sum(getattr(result.timings, stage) for result in painted for stage in stages)
    assert engine.measurements.compiling == 1000
    assert engine.measurements.busy == pytest.approx(total - 1000)


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
