"""Paint one case on the dry card, through the project's own planner, loader, tuning, engine and ledger."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inpaint_ops import device as cards
from inpaint_ops import tuning
from inpaint_ops.engine import BatchKey, Engine, PaintItem
from inpaint_ops.errors import InpaintOpsError
from inpaint_ops.model import (
    adapters,
    attention,
    ledger,
    loading,
    loras,
    random_weights,
    recipes,
    sources,
    tuned,
    verifying,
)
from inpaint_ops.model.tokenizers import PAD_TOKENS
from inpaint_ops.records import DeviceInfo, LoraFile
from tests.dry_card import sparse_folder
from tests.dry_card.cases import CARD, Case
from tests.dry_card.live_bytes import LiveBytes
from tests.dry_card.pretended_card import CONTEXT

MODEL = "sdxl-random"
SIZE = 1024
STEPS = 2
FILE, LORA = "model.safetensors", "lora.safetensors"


@dataclasses.dataclass
class Finding:
    """What one case came to. Bytes are live bytes, `peaks` by phase; `counted` is what the plan counts on, `estimate`
    the same with its allowance.
    """

    name: str
    peaks: dict[str, int] = dataclasses.field(default_factory=dict)
    peak: int = 0
    peak_at: str = ""
    counted: int = 0
    estimate: int = 0
    batch: int = 0
    warnings: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)
    not_in_effect: list[str] = dataclasses.field(default_factory=list)
    waits: dict[str, int] = dataclasses.field(default_factory=dict)
    downloads: dict[str, int] = dataclasses.field(default_factory=dict)
    layouts: dict[str, int] = dataclasses.field(default_factory=dict)
    held: int = 0
    left: int = 0
    seconds: float = 0.0


def stand_ins() -> None:
    """What no CPU build of torch or xFormers can answer about the card is answered here; once per process."""
    import xformers.ops

    sparse_folder.pretend_reading()
    for module in (loras, verifying):
        module.file_digest = lambda path, notes: "0" * 64  # type: ignore[attr-defined]  # of 7 GB of zeros
    adapters.check_finite = lambda lora, tensors: None  # its matrices have no values
    loading.read_ahead = lambda files: None  # the holes of a folder would fill the page cache with 7 GB of zeros
    cards.cards.visible_devices = lambda environment=None: []  # type: ignore[attr-defined]
    for module in (tuned, attention):
        module.probe_xformers = lambda kind, dtype: ""  # type: ignore[attr-defined]
    ledger.kernel_in_use = lambda *args: ""  # type: ignore[attr-defined]
    xformers.ops.memory_efficient_attention = lambda query, key, value, **more: torch.empty_like(query)


def card() -> DeviceInfo:
    """The dry card as torch describes it to the planner."""
    return DeviceInfo(kind="cuda", name="dry card", total_memory=CARD, free_memory=CARD - CONTEXT, capability="9.0")


def paint(case: Case, counter: LiveBytes, folder: Path | None = None) -> Finding:
    """Load, tune and paint `case`, from `folder` where it has one; what fails is part of the finding."""
    finding = Finding(case.name)
    began = time.process_time()
    counter.limit = counter.fail_in = None
    counter.layouts.clear(), counter.waits.clear()
    counter.reset_peak()
    try:
        with _force_upcast(case.upcast):
            model = folder / FILE if folder and case.from_file else folder if folder and case.from_folder else MODEL
            _paint(case, counter, finding, str(model), str(folder / LORA) if folder and case.loras else "")
    except InpaintOpsError as error:
        finding.errors.append(f"{type(error).__name__}: {str(error)[:300]}")
    finding.peak = max(finding.peaks.values(), default=0)
    finding.seconds = time.process_time() - began
    return finding


def write_folder(case: Case, folder: Path) -> None:
    """Write the model that `case` loads from a folder or a file, and its LoRA; outside the dry card's modes."""
    if case.from_file:
        sparse_folder.write_file(folder / FILE, MODEL, torch.float16)
        for name, pad in zip(("tokenizer", "tokenizer_2"), PAD_TOKENS, strict=True):
            random_weights.byte_tokenizer(pad).save_pretrained(str(folder / "tokenizers" / name))
    if case.loras:
        sparse_folder.write_lora(folder / LORA, MODEL, rank=64)
    if not case.from_folder:
        return
    with _force_upcast(case.upcast):
        # The published files are of float16 and float32: in bfloat16 those of float16 are read and cast.
        sparse_folder.write(folder, MODEL, torch.float32 if case.overrides.get("dtype") == "float32" else torch.float16)


def _paint(case: Case, counter: LiveBytes, finding: Finding, model: str, lora: str) -> None:
    source = sources.resolve(model, tokenizer=str(Path(model).parent / "tokenizers") if case.from_file else None)
    named = [LoraFile(name="a", path=str(Path(lora)))] if lora else []
    fused = {"a": 1.0} if case.loras == "merged" else None
    choice = tuning.choose(
        card(),
        preset=case.preset,
        overrides=case.overrides,
        workload=sources.workload(source, loras=named, fused=fused),
        expected_rows=case.rows,
    )
    plan = choice.tuning
    finding.counted, finding.estimate = choice.counted_peak, choice.estimated_peak

    state = {"phase": "load"}
    if case.fail_in is not None:
        counter.fail_in = _failing(case, state)

    def ended(phase: str) -> None:
        if counter.peak > finding.peaks.get(phase, 0):
            finding.peaks[phase] = counter.peak
            if counter.peak == max(finding.peaks.values()):
                finding.peak_at = f"{phase}: {counter.peak_at}"
        counter.reset_peak()

    loaded = loading.load(sources.find(source, dtype=plan.dtype, loras=named), card(), choice, fuse_loras=fused)
    ended("load")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        # A FakeTensor's parameter is made anew at each move, and of what an inference has left only without gradients.
        getattr(loaded.pipe, part).requires_grad_(False)
    listener = _Listener(finding.warnings)
    engine = Engine(loaded, listener)
    if plan.release_text_encoders:
        state["phase"] = "prompts"
        engine.prepare_prompts(["a linen sofa"])
        ended("prompts")
        engine.release_text_encoders()
        counter.reset_peak()
    finding.held = counter.live
    _watch(engine, counter, ended, finding, state)
    steps, switched = STEPS + (case.cutoff < 1), (("a", 0.8),) if case.loras else ()
    key = BatchKey(SIZE, SIZE, steps, 7.5, 0.9999, loras=switched, guidance_cutoff=case.cutoff)
    plate = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[256:768, 256:768] = 255
    rows = [PaintItem(row, key, plate, mask, "a linen sofa", None, row) for row in range(1, plan.batch_size + 1)]
    for number in range(case.batches):
        counter.limit = int(case.limit) if case.limit and number == 0 else None
        for result in engine.paint(rows):
            if result.error is not None:
                finding.errors.append(f"{type(result.error).__name__}: {str(result.error)[:300]}")
            finding.warnings += result.notes
    counter.limit = counter.fail_in = None
    gc.collect()
    entries = loaded.inspect((SIZE, SIZE), batch_size=engine.measurements.largest_batch,
                             batch_limit=engine.batch_size, prompts_done=True)  # fmt: skip
    entries = engine.with_measured(entries)
    finding.not_in_effect = [f"{one.name}: {one.requested} is {one.effective}: {one.reason}"
                             for one in entries if not one.matches]  # fmt: skip
    finding.batch = engine.batch_size
    finding.layouts = dict(counter.layouts)
    finding.left = counter.live


@dataclasses.dataclass
class _Listener:
    """Remembers what the engine says."""

    warnings: list[str]

    def step(self, step: int, steps: int) -> None:
        pass

    def prompt_encoded(self, done: int, total: int) -> None:
        pass

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def out_of_memory(self, message: str) -> None:
        self.warnings.append(message)


def _failing(case: Case, state: dict[str, str]) -> Callable[[], bool]:
    """Whether an allocation is to fail: the first so many of the case's phase."""
    left = case.failures

    def fails() -> bool:
        nonlocal left
        if state["phase"] != case.fail_in or left == 0:
            return False
        left -= 1
        return True

    return fails


def _watch(engine: Any, counter: LiveBytes, ended: Any, finding: Finding, state: dict[str, str]) -> None:
    """Have the peaks of each phase noted where the engine reads its clock, and the waits within the pipeline's call."""
    state["phase"] = "embed"
    engine._pipe.unet.register_forward_pre_hook(lambda *_: state.update(phase="denoise"))
    to, inside = engine._pipe.to, [False]

    def marked_to(*args: Any, **kwargs: Any) -> Any:
        if args and torch.device(args[0]).type == "cuda":
            state["phase"] = "return"
        return to(*args, **kwargs)

    engine._pipe.to = marked_to
    meter, denoise = engine._meter, engine._denoise
    clock = meter.clock

    def marked_clock() -> float:
        ended(state["phase"])
        if not inside[0] and state["phase"] in ("denoise", "decode"):
            state["phase"] = "decode" if state["phase"] == "denoise" else "embed"
        return float(clock())

    def marked_denoise(*args: Any) -> Any:
        state["phase"], inside[0] = "encode", True
        counter.waits.clear(), counter.downloads.clear()
        try:
            return denoise(*args)
        finally:
            inside[0] = False
            finding.waits |= counter.waits
            finding.downloads |= counter.downloads

    meter.clock, engine._denoise = marked_clock, marked_denoise


@contextmanager
def _force_upcast(wanted: bool) -> Iterator[None]:
    """Within the block the model's VAE has `force_upcast` as wanted."""
    plain = recipes.RECIPES[MODEL]
    vae = dict(plain.vae) | {"force_upcast": wanted}
    recipes.RECIPES[MODEL] = dataclasses.replace(plain, vae=vae)
    try:
        yield
    finally:
        recipes.RECIPES[MODEL] = plain
