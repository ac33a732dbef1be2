"""Measure one cell after the other in this process: the product's own loader and engine, timed.

Only child processes import this: it imports torch.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import ceilings
from bench.cells import EXPECTED_ROWS, Cell
from bench.results import CellResult, Spread
from inpaint_ops import device as cards
from inpaint_ops import tuning
from inpaint_ops.engine import BatchKey, Engine, LoggingListener, PaintItem, PaintResult
from inpaint_ops.model import attention, random_weights, recipes
from inpaint_ops.model.loading import LoadedModel, load
from inpaint_ops.model.own_models import MARKER, RECIPE_VERSION
from inpaint_ops.model.sources import find, native_size, resolve, workload
from inpaint_ops.records import BATCH_STAGES, STAGES, DeviceInfo, LedgerEntry, Memory

WARM_UP_STEPS = 2
PROMPT = "a wooden bench in a garden, photograph"
GUIDANCE, STRENGTH = 7.5, 0.9999
FOLDER_BYTES = 10_000_000_000
"""Free disk that the full-size model's folder (6.9e9 bytes) is given."""


@dataclass(frozen=True, slots=True)
class _UnrelievedModel(LoadedModel):
    """A model whose rows fail where they do not fit by themselves, so that a tier can say so."""

    def relieve(self) -> None:
        """Nothing is switched on to save memory."""


class _StepListener(LoggingListener):
    """Calls `mark` after each denoising step."""

    def __init__(self, mark: Callable[[], None]) -> None:
        self._mark = mark

    def step(self, step: int, steps: int) -> None:
        """A step is done."""
        self._mark()


@dataclass
class Bench:
    """One process's measurements. `folder` is where the cells that read weights from disk find them."""

    device: str
    folder: Path
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of this process's own start: interpreter, imports."""
    spawned: float = 0.0
    """When the parent started this process, epoch seconds."""
    _loaded: LoadedModel | None = None
    _painter: Engine | None = None
    _key: str = ""
    _steps: list[float] = field(default_factory=list)

    def measure(self, cell: Cell, seconds: float) -> CellResult:
        """The cell's result; repeats stop when `seconds` are used. Raises nothing: a failure is a result."""
        began = time.perf_counter()
        try:
            result = {
                "ceilings": self._ceilings,
                "folder": self._folder,
                "cold": self._cold,
                "paint": self._paint,
            }[cell.kind](cell, began + seconds)
        except Exception as error:  # whatever a library raises is this cell's result
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            self._release()
            result = CellResult(cell=cell, status="failed", reason=reason)
        return result.model_copy(update={"wall": time.perf_counter() - began})

    def _card(self, cap: int | None) -> tuple[DeviceInfo, int | None]:
        """The card as the planner shall see it, and the bytes that are taken outside of torch's allocator.

        With `cap`, torch may have what is left of it beside CUDA's context: together they make the smaller card.
        """
        card = cards.describe(self.device)
        if cap is None:
            # What this process holds of earlier cells is free to the next: a fresh worker would find it so.
            held = torch.cuda.memory_reserved() if card.kind == "cuda" else 0
            return card.model_copy(update={"free_memory": card.free_memory + held}), None
        if card.kind != "cuda":
            raise RuntimeError("a memory cap needs a CUDA GPU")
        torch.zeros(1, device="cuda")
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        if cap > total:
            raise RuntimeError(f"this card has {total / 1e9:.1f} GB: it cannot stand for one of {cap / 1e9:.0f} GB")
        torch.cuda.set_per_process_memory_fraction((cap - context) / total)
        name = f"{card.name}, capped at {cap / 1e9:.0f} GB"
        return card.model_copy(update={"name": name, "total_memory": cap, "free_memory": cap - context}), context

    def _open(self, cell: Cell) -> tuple[LoadedModel, int | None]:
        """The cell's model, loaded and tuned; the one at hand is kept where it is the very same."""
        model = str(self.folder) if cell.from_folder else cell.model
        if cell.from_folder and not (self.folder / MARKER).exists():
            self._folder(cell, 0.0)
        card, context = self._card(cell.cap)
        choice = self._choice(cell, model, cell.overrides, card)
        key = json.dumps([model, cell.cap, choice.tuning.model_dump(mode="json", exclude={"batch_size"})])
        if key != self._key or self._loaded is None:
            self._release()
            self._loaded, self._key = self._load(model, choice, card), key
            self._painter = self._engine(self._loaded)
        self._loaded = dataclasses.replace(self._loaded, tuning=choice.tuning, choice=choice)
        return self._loaded, context

    def _choice(self, cell: Cell, model: str, overrides: Mapping[str, Any], card: DeviceInfo) -> tuning.Choice:
        """As a worker asks the planner, with the card's attention kernels tried once per run."""
        fields = dict(overrides) | ({} if cell.batch is None else {"batch_size": cell.batch})
        dtype = fields.get("dtype") or ("float32" if card.kind == "cpu" else "float16")
        return tuning.choose(
            card,
            preset=cell.preset,
            overrides=fields,
            workload=workload(resolve(model)),
            expected_rows=EXPECTED_ROWS,
            probe=attention.probe(card, dtype, self.folder.parent),
        )

    def _engine(self, loaded: LoadedModel) -> Engine:
        """An engine as a worker makes it, except that it marks each step's time."""
        return Engine(loaded, _StepListener(lambda: self._mark(loaded.device)))

    def _ready(self, loaded: LoadedModel) -> Engine:
        """The engine of the model at hand, its prompts encoded and the encoders dropped if the tuning asks for it."""
        assert self._painter is not None
        self._painter.batch_size = loaded.tuning.batch_size
        if loaded.tuning.release_text_encoders and loaded.pipe.text_encoder is not None:
            self._painter.prepare_prompts([PROMPT])
            self._painter.release_text_encoders()
        return self._painter

    def _load(self, model: str, choice: tuning.Choice, card: DeviceInfo) -> LoadedModel:
        loaded = load(find(resolve(model), dtype=choice.tuning.dtype), card, choice)
        return _UnrelievedModel(**{field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)})

    def _partner(self, cell: Cell) -> Engine | None:
        """An engine with the partner's configuration, beside this cell's own."""
        if cell.beside is None:
            return None
        card, _ = self._card(None)
        choice = self._choice(cell, cell.model, cell.beside, card)
        return self._engine(self._load(cell.model, choice, card))

    def _release(self) -> None:
        self._loaded, self._painter, self._key = None, None, ""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _paint(self, cell: Cell, deadline: float) -> CellResult:
        loaded, context = self._open(cell)
        side = cell.size or loaded.native_size
        size = (side, side)
        batch = loaded.tuning.batch_size
        facts: dict[str, Any] = {
            "cell": cell,
            "size": size,
            "tuning": loaded.tuning.model_dump(mode="json"),
            "planned": loaded.choice.estimated_peak if loaded.choice else None,
            "parts": loaded.seconds,
            "weights": torch.cuda.memory_allocated() if loaded.device.type == "cuda" else None,
            "context": context,
        }
        before = loaded.inspect(size)
        if idle := _without_effect(cell, before):
            return CellResult(status="no effect", reason=idle, ledger=before, **facts)

        painter = self._ready(loaded)
        partner = self._partner(cell)
        whole = _items(batch, size, cell.steps)
        items = _cut(whole, cell.guidance_cutoff)
        short = min(WARM_UP_STEPS, cell.steps)
        brief = _cut(_items(batch, size, short), cell.guidance_cutoff)
        warm_up = [_seconds(self._run(painter, brief)) for _ in range(cell.warm_ups)]
        if partner is not None:
            self._run(partner, _items(batch, size, short))
        totals: list[float] = []
        others: list[float] = []
        results: list[list[PaintResult]] = []
        steps: list[float] = []
        for _ in range(cell.repeats):
            if partner is not None:
                others.append(_seconds(self._run(partner, whole)))
            self._steps.clear()
            painted = self._run(painter, items)
            results.append(painted)
            totals.append(_seconds(painted))
            steps += self._between(loaded.device)
            if time.perf_counter() + max(totals) > deadline:
                break
        fits = painter.batch_size
        after = loaded.inspect(
            size, batch_size=min(batch, fits), batch_limit=fits, prompts_done=loaded.pipe.text_encoder is None
        )
        if idle := _without_effect(cell, after):
            return CellResult(cell=cell, status="no effect", reason=idle, ledger=after)
        unguided = results[0][0].unguided_steps
        if cell.guidance_cutoff < 1 and not unguided:
            return CellResult(cell=cell, status="no effect", reason="; ".join(results[0][0].notes), ledger=after)
        reduced = f"memory ran out: {batch} rows at once did not fit, {fits} did" if fits < batch else ""
        return CellResult(
            status="reduced" if reduced else "measured",
            reason=reduced,
            batch=batch,
            together=fits,
            steps_ran=results[0][0].steps,
            unguided_steps=unguided,
            seconds=Spread.of(totals),
            seconds_per_image=Spread.of(totals).median / batch,
            off_seconds=Spread.of(others) if others else None,
            in_turn=Spread.of([one / two for one, two in zip(totals, others, strict=True)]) if others else None,
            stages=_stages(results),
            step_seconds=Spread.of(steps) if steps else None,
            warm_up=tuple(warm_up),
            warm_up_steps=short,
            peak=_peak(results),
            ledger=after,
            **facts,
        )

    def _cold(self, cell: Cell, deadline: float) -> CellResult:
        """A fresh process's way to its first image. The parts are seconds; `first call` is what the first batch took
        longer than the second.
        """
        if cell.from_folder:
            _evict(self.folder)
        began = time.perf_counter()
        if self.device != "cpu" and torch.cuda.is_available():
            torch.zeros(1, device="cuda")
        context = time.perf_counter() - began
        loaded, _ = self._open(cell)
        painter = self._ready(loaded)
        size = (loaded.native_size, loaded.native_size)
        items = _items(loaded.tuning.batch_size, size, cell.steps)
        painted = self._run(painter, items)
        first, to_first = _seconds(painted), time.time() - self.spawned
        second = _seconds(self._run(painter, items))
        parts = (
            self.parts | {"CUDA context": context} | {f"load: {name}": took for name, took in loaded.seconds.items()}
        )
        return CellResult(
            cell=cell, status="measured", size=size, batch=len(items), steps_ran=painted[0].steps,
            tuning=loaded.tuning.model_dump(mode="json"), ledger=loaded.inspect(size),
            parts=parts | {"first call": max(0.0, first - second), "second batch": second, "to first image": to_first},
        )  # fmt: skip

    def _folder(self, cell: Cell, deadline: float) -> CellResult:
        """Write the model as a folder of safetensors, made where it is quickest to make."""
        if cell.model == "sdxl-random" and shutil.disk_usage(self.folder.parent).free < FOLDER_BYTES:
            raise RuntimeError(f"less than {FOLDER_BYTES / 1e9:.0f} GB free in {self.folder.parent}")
        gpu = self.device != "cpu" and torch.cuda.is_available()
        dtype = torch.float16 if gpu else torch.float32
        pipe = random_weights.instantiate(cell.model, "cuda" if gpu else "cpu", dtype)
        pipe.save_pretrained(str(self.folder), safe_serialization=True, variant="fp16" if gpu else None)
        marker = {"random_weights": True, "model": cell.model, "recipe": RECIPE_VERSION}
        (self.folder / MARKER).write_text(json.dumps(marker), encoding="utf-8")
        size = sum(path.stat().st_size for path in self.folder.rglob("*.safetensors"))
        return CellResult(cell=cell, status="measured", parts={"bytes": float(size)})

    def _ceilings(self, cell: Cell, deadline: float) -> CellResult:
        where = "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"
        native = native_size(resolve(cell.model))
        return CellResult(
            cell=cell, status="measured", size=(native, native), ceilings=ceilings.measure(where, deadline),
            step_flops=count_step(cell.model, native),
        )  # fmt: skip

    def _run(self, painter: Engine, items: Sequence[PaintItem]) -> list[PaintResult]:
        painted = list(painter.paint(items))
        for result in painted:
            if result.error is not None:
                raise result.error
        return painted

    def _mark(self, place: torch.device) -> None:
        """The end of a step: an event in the card's own time, so that nothing waits for it."""
        if place.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._steps.append(event)  # type: ignore[arg-type]
        else:
            self._steps.append(time.perf_counter())

    def _between(self, place: torch.device) -> list[float]:
        """Seconds between the ends of two steps of one batch; the first step has no beginning."""
        marks: list[Any] = list(self._steps)
        if place.type == "cuda":
            torch.cuda.synchronize()
            return [one.elapsed_time(two) / 1e3 for one, two in pairwise(marks)]
        return [two - one for one, two in pairwise(marks)]


def count_step(model: str, side: int) -> float | None:
    """Floating-point operations of one image's UNet step with guidance, that is of two samples.

    Counted by torch.utils.flop_counter over the layers' shapes on the meta device: matrix products, convolutions and
    attention, a multiply-add as two. None for a model that is not one of ours. Latents (2, 9, side / 8, side / 8).
    """
    if model not in recipes.RECIPES:
        return None
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**recipes.recipe(model).unet)
        latents = torch.empty(2, 9, side // 8, side // 8)
        text = torch.empty(2, 77, unet.config.cross_attention_dim)
        sizes = 6 * unet.config.addition_time_embed_dim
        added = {
            "text_embeds": torch.empty(2, unet.config.projection_class_embeddings_input_dim - sizes),
            "time_ids": torch.empty(2, 6),
        }
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(latents, torch.empty(()), text, added_cond_kwargs=added)
    return float(counter.get_total_flops())


def _items(count: int, size: tuple[int, int], steps: int) -> list[PaintItem]:
    """Rows of noise, each with a mask of its own over about half the frame, and one prompt among them."""
    width, height = size
    draw = np.random.default_rng(7)
    items = []
    for row in range(1, count + 1):
        rgb = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 :, width // 4 : width - row] = 255
        key = BatchKey(width, height, steps, GUIDANCE, STRENGTH)
        items.append(PaintItem(row, key, rgb, mask, PROMPT, None, row))
    return items


def _cut(items: Sequence[PaintItem], cutoff: float) -> list[PaintItem]:
    """The same rows, whose guidance ends after that share of their steps."""
    return [dataclasses.replace(item, key=item.key._replace(guidance_cutoff=cutoff)) for item in items]


def _without_effect(cell: Cell, ledger: Sequence[LedgerEntry]) -> str:
    """Why the optimisation that the cell switches on is not in effect; "" where it is."""
    for entry in ledger:
        if entry.name == cell.flips and not entry.matches:
            return f"{entry.name} is {entry.effective}: {entry.reason}"
    return ""


def _seconds(painted: Sequence[PaintResult]) -> float:
    """Of the whole call: a batch's stages are each row's, batches that had to be cut follow each other."""
    batches = {result.batch.id: result for result in painted if result.batch}
    return sum(getattr(one.timings, stage) or 0.0 for one in batches.values() for stage in BATCH_STAGES)


def _stages(results: Sequence[Sequence[PaintResult]]) -> dict[str, Spread]:
    found: dict[str, Spread] = {}
    for stage in (name for name in STAGES if name in BATCH_STAGES):
        values = []
        for painted in results:
            batches = {result.batch.id: result for result in painted if result.batch}
            values.append(sum(getattr(one.timings, stage) or 0.0 for one in batches.values()))
        found[stage] = Spread.of(values)
    return found


def _peak(results: Sequence[Sequence[PaintResult]]) -> Memory | None:
    known = [result.memory for painted in results for result in painted if result.memory]
    if not known:
        return None
    return Memory(
        peak_allocated=max(one.peak_allocated for one in known), peak_reserved=max(one.peak_reserved for one in known)
    )


def _evict(folder: Path) -> None:
    """Ask the kernel to forget the folder's files, so that they are read from the disk again."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
