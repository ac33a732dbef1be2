"""The engine: seeds, denoise, decode, timings, out-of-memory back-off."""

from __future__ import annotations

import gc
import logging
import resource
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import torch
from PIL import Image
from torch._dynamo.exc import TorchDynamoException

from inpaint_ops.engine.batching import BatchKey, PaintItem, PaintResult
from inpaint_ops.engine.decoding import decode_checked
from inpaint_ops.engine.prompts import PROMPTS_KEPT, Prompts
from inpaint_ops.engine.safer import can_widen, dtypes_of, in_float32
from inpaint_ops.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    FlatImageError,
    NonFiniteImageError,
)
from inpaint_ops.records import Batch, LedgerEntry, Memory, Timings

log = logging.getLogger(__name__)

_ALLOCATION_FAILED = (
    "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "DefaultCPUAllocator",
)  # fmt: skip
"""How drivers and libraries below torch say that memory ran out, in a plain RuntimeError."""


class Loaded(Protocol):
    """What the engine needs of a loaded model: a StableDiffusionXLInpaintPipeline, tuned and in place."""

    @property
    def pipe(self) -> Any:
        """The pipeline."""


class Tuned(Protocol):
    """What the engine needs of a tuning."""

    @property
    def batch_size(self) -> int:
        """Rows painted together, at most."""


class Engine:
    """Paints batches with one pipeline on one device; not safe for threads.

    `on_step(step, steps)` is called after each denoising step, `on_warning(text)` when it goes on otherwise than it was
    told, `on_out_of_memory(text)` (default: the same) when for want of memory. Between calls the pipeline is as it was.

    `fixed_size` is for compiled models: every batch is filled up to `batch_size` with copies of its last row, whose
    images are dropped, so that a last, smaller batch is no new shape. `relieve()` gives a block within which the
    pipeline needs less memory, or None; `compile_seconds()` says how long this process has compiled so far, and
    `uncompile(error)` has the model run without. Each batch is painted within `kernels()`.
    """

    def __init__(
        self,
        loaded: Loaded,
        tuning: Tuned,
        on_step: Callable[[int, int], None] = lambda step, steps: None,
        *,
        on_warning: Callable[[str], None] = log.warning,
        on_out_of_memory: Callable[[str], None] | None = None,
        prompts_kept: int = PROMPTS_KEPT,
        fixed_size: bool = False,
        relieve: Callable[[], AbstractContextManager[None] | None] = lambda: None,
        compile_seconds: Callable[[], float] = lambda: 0.0,
        uncompile: Callable[[Exception], None] = lambda error: None,
        kernels: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._pipe = loaded.pipe
        self._on_step = on_step
        self._on_warning = on_warning
        self._on_out_of_memory = on_out_of_memory or on_warning
        self._fixed_size = fixed_size
        self._relieve = relieve
        self._compile_seconds = compile_seconds
        self._uncompile = uncompile
        self._kernels = kernels
        self._prompts = Prompts(self._pipe, prompts_kept)
        self._device = torch.device(self._pipe._execution_device)
        self._compiling = 0.0
        self._batches: list[tuple[BatchKey, int, Timings, float]] = []
        self._started = 0
        self.batch_size = tuning.batch_size
        """Rows that a batch may have: the tuning's choice, or less once memory ran out."""
        self.painted = 0
        """Rows that became an image."""
        self.released_bytes = 0
        """Bytes of text encoder weights that were dropped once all prompts were encoded."""
        self.peak_memory: Memory | None = None
        """The peaks of all batches so far."""
        self._pipe.set_progress_bar_config(disable=True)

    @property
    def busy(self) -> float:
        """Seconds spent on batches that were painted, less what was spent compiling."""
        return sum(total for *_, total in self._batches)

    @property
    def compiling(self) -> float:
        """Seconds spent compiling while batches were painted."""
        return self._compiling

    @property
    def largest_batch(self) -> int | None:
        """Rows of the largest batch that was painted; None before the first."""
        return max((size for _, size, _, _ in self._batches), default=None)

    @property
    def first_call(self) -> float:
        """Seconds by which the first batch outlasted the median of the later ones of its key and size.

        0 where no later batch is comparable: one batch alone cannot tell warm-up from work.
        """
        if not self._batches:
            return 0.0
        key, size, _, first = self._batches[0]
        later = [total for other, rows, _, total in self._batches[1:] if (other, rows) == (key, size)]
        return max(0.0, first - statistics.median(later)) if later else 0.0

    @torch.inference_mode()
    def prepare_prompts(self, texts: Sequence[str], on_text: Callable[[int], None] = lambda done: None) -> None:
        """Encode every text that rows will bring (MAX_PROMPTS at most), before the first batch.

        Raises DeviceOutOfMemoryError where not even the encoders fit.
        """
        try:
            self._prompts.prepare(texts, on_text)
        except torch.OutOfMemoryError as error:
            raise DeviceOutOfMemoryError(
                f"the text encoders do not fit the memory ({' '.join(str(error).split())[:200]}): "
                "use the tuning low-memory, or a card with more memory"
            ) from None
        finally:
            self._pipe.maybe_free_model_hooks()

    def release_text_encoders(self) -> None:
        """Drop both text encoders and give their memory back; from here on only texts that are known can be painted."""
        encoders = [self._pipe.text_encoder, self._pipe.text_encoder_2]
        self.released_bytes += sum(
            value.numel() * value.element_size() for one in encoders if one is not None for value in one.parameters()
        )
        del encoders
        self._pipe.text_encoder = self._pipe.text_encoder_2 = None
        self._pipe.maybe_free_model_hooks()  # the hooks of an offload hold on to what they were made with
        self._free()

    def measured(self) -> dict[str, float]:
        """Means over the batches (seconds of each stage, rows) and peak memory in bytes; empty before the first."""
        if not self._batches or self.peak_memory is None:
            return {}
        stages = [timings for _, _, timings, _ in self._batches]
        means = {
            f"{stage}_seconds": statistics.fmean(getattr(timings, stage) for timings in stages)
            for stage in ("encode_prompt", "vae_encode", "denoise", "vae_decode")
        }
        return means | {
            "rows_per_batch": statistics.fmean(size for _, size, _, _ in self._batches),
            "peak_allocated_bytes": float(self.peak_memory.peak_allocated),
            "peak_reserved_bytes": float(self.peak_memory.peak_reserved),
        }

    def with_measured(self, ledger: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
        """The ledger with `measured` filled in: what ran together is measured together, so all entries say the same."""
        measured = self.measured()
        own = {
            "release_text_encoders": {
                "texts_encoded": float(self._prompts.encoded), "released_bytes": float(self.released_bytes),
            },
        }  # fmt: skip
        return tuple(
            entry.model_copy(update={"measured": entry.measured | own.get(entry.name, {}) | measured})
            for entry in ledger
        )

    def paint(self, batch: Sequence[PaintItem]) -> Iterator[PaintResult]:
        """Paint rows of one BatchKey; yield exactly one result for each, in order, as parts of the batch get done.

        Out of memory halves `batch_size` for good and tries the same rows again; a single row that does not fit is
        tried once more with what `relieve` gives, and then fails with DeviceOutOfMemoryError. Where compiling fails,
        the model goes on without. A patch that is not finite, or flat for no reason, is decoded again in float32; if
        that does not help, its row is painted again in float32; then it fails with what was wrong with the first one.
        Any other exception makes the rows go on one by one, so that the guilty row alone fails with it.

        Raises ValueError for rows of several keys, and DeviceLostError where the device's context is lost: then no
        later batch in this process can work.
        """
        if len({item.key for item in batch}) > 1:
            raise ValueError("a batch holds rows of one size, one number of steps, one guidance and one strength")
        waiting = deque(batch)
        alone = 0  # rows at the head of `waiting` that go one by one, since together they failed
        while waiting:
            size = 1 if alone else min(self.batch_size, len(waiting))
            rows = list(islice(waiting, size))
            results, failure = self._attempt(rows)
            if failure is not None and _out_of_memory(failure):
                self._free()
                if (tried := self._filled(size)) > 1:
                    self._shrink(tried, failure)
                    continue
                results, failure = self._attempt_relieved(rows[0], failure)
            elif isinstance(failure, TorchDynamoException) and self._fixed_size:
                self._fixed_size = False
                self._uncompile(failure)
                self._on_warning(f"compiling failed, the model runs without: {' '.join(str(failure).split())[:200]}")
                continue
            elif failure is not None and size > 1:
                alone = size
                continue
            alone = max(0, alone - 1)
            for _ in rows:
                waiting.popleft()
            if failure is not None:
                yield PaintResult(rows[0].row, None, failure)
                continue
            for row, result in zip(rows, results, strict=True):
                is_bad = isinstance(result.error, NonFiniteImageError | FlatImageError)
                yield self._in_float32(row, result) if is_bad else result

    def _attempt(self, rows: Sequence[PaintItem]) -> tuple[list[PaintResult], Exception | None]:
        """Results, or the exception, bare of its traceback: that one's frames would hold the batch's tensors."""
        try:
            with self._kernels():
                return self._paint(rows), None
        except Exception as error:
            out_of_memory = _out_of_memory(error)
            if isinstance(error, torch.AcceleratorError) and not out_of_memory:
                raise DeviceLostError(f"the device failed: {' '.join(str(error).split())[:300]}") from error
            if not out_of_memory:
                log.exception("painting rows %s failed", [item.row for item in rows])
            error.__context__ = error.__cause__ = None
            return [], error.with_traceback(None)

    def _attempt_relieved(self, row: PaintItem, error: Exception) -> tuple[list[PaintResult], Exception | None]:
        """Once more, with less memory; afterwards the pipeline is as it was, for the rows that fit without."""
        block = self._relieve()
        if block is None:
            return [], _does_not_fit(row, error)
        with block:
            results, failure = self._attempt([row])
        self._free()
        if failure is not None:
            return [], _does_not_fit(row, failure) if _out_of_memory(failure) else failure
        size = f"{row.key.width}x{row.key.height}"
        self._on_out_of_memory(f"row {row.row} at {size} did not fit the memory by itself: painted as with low-memory")
        return results, None

    def _in_float32(self, row: PaintItem, bad: PaintResult) -> PaintResult:
        """Once more in float32, the row by itself; what was wrong at first where that cannot be or does not help."""
        if not can_widen(self._pipe):
            return bad
        fixed, self._fixed_size = self._fixed_size, False
        was = dtypes_of(self._pipe)
        try:
            with in_float32(self._pipe):
                results, failure = self._attempt([row])
        except DeviceLostError:
            raise
        except Exception as error:  # no memory, or a part that cannot be cast
            log.warning("row %d could not be painted again in float32: %s", row.row, error)
            return bad
        finally:
            self._fixed_size = fixed
            self._free()
        if failure is not None or results[0].error is not None:
            return bad
        note = f"painted again in float32, since the first patch was not finite or flat ({was})"
        log.warning("row %d was %s", row.row, note)
        return replace(results[0], notes=(*results[0].notes, note))

    def _filled(self, rows: int) -> int:
        """Rows that the model gets to see where `rows` are painted."""
        return max(rows, self.batch_size) if self._fixed_size else rows

    def _shrink(self, size: int, error: Exception) -> None:
        self.batch_size = size // 2
        reason = " ".join(str(error).split())[:200]
        self._on_out_of_memory(f"{size} rows at once did not fit the memory: {self.batch_size} from here on ({reason})")

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _paint(self, rows: Sequence[PaintItem]) -> list[PaintResult]:
        key = rows[0].key
        filled = [*rows, *[rows[-1]] * (self._filled(len(rows)) - len(rows))]
        compiled_before = self._compile_seconds()
        self._started += 1
        vae_dtype = self._pipe.vae.dtype
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            began = self._clock()
            embeds = self._prompts.embed(filled, guided=self._guided(key), device=self._device)
            embeds = {
                name: value if value is None else value.to(self._pipe.unet.dtype) for name, value in embeds.items()
            }
            embedded = self._clock()
            with self._marked_encodes() as encodes:
                latents, steps = self._denoise(filled, embeds)
            denoised = self._clock()
            images = decode_checked(self._pipe, latents, rows)
            decoded = self._clock()
        finally:
            # A `force_upcast` VAE is cast to float32 and back: an exception in between must not leave it there.
            if self._pipe.vae.dtype != vae_dtype:
                self._pipe.vae.to(vae_dtype)
            self._pipe.maybe_free_model_hooks()
        encoded = encodes[-1] if encodes else embedded
        timings = Timings(
            encode_prompt=embedded - began,
            vae_encode=encoded - embedded,
            denoise=denoised - encoded,
            vae_decode=decoded - denoised,
        )
        memory = self._memory()
        compiling = self._compile_seconds() - compiled_before
        self._compiling += compiling
        self._batches.append((key, len(rows), timings, decoded - began - compiling))
        self.painted += sum(error is None for _, error, _ in images)
        batch = Batch(id=f"{self._started:05d}", size=len(rows))
        return [
            PaintResult(
                row=item.row,
                image=image if error is None else None,
                error=error,
                steps=steps,
                batch=batch,
                timings=timings,
                memory=memory,
                notes=said,
            )
            for item, (image, error, said) in zip(rows, images, strict=True)
        ]

    def _guided(self, key: BatchKey) -> bool:
        """Whether the pipeline will do classifier-free guidance (its `do_classifier_free_guidance`)."""
        return key.guidance_scale > 1 and self._pipe.unet.config.time_cond_proj_dim is None

    def _denoise(self, rows: Sequence[PaintItem], embeds: dict[str, torch.Tensor | None]) -> tuple[torch.Tensor, int]:
        """Latents (batch, 4, height / 8, width / 8), scaled, and the number of steps that ran.

        One image, one mask and one CPU generator a row: one image with several generators would be encoded with the
        first alone, and the device's own generator would tie a row's noise to the batch and the card.
        """
        key = rows[0].key
        ran = 0

        def step_ended(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal ran
            order = pipe.scheduler.order  # a second-order scheduler visits each step twice
            ran = index // order + 1
            self._on_step(ran, -(-pipe.num_timesteps // order))
            return tensors

        latents = self._pipe(
            image=[Image.fromarray(item.rgb) for item in rows],
            mask_image=[Image.fromarray(item.mask) for item in rows],
            generator=[torch.Generator("cpu").manual_seed(item.seed) for item in rows],
            width=key.width,
            height=key.height,
            num_inference_steps=key.steps,
            guidance_scale=key.guidance_scale,
            strength=key.strength,
            output_type="latent",
            callback_on_step_end=step_ended,
            **embeds,
        ).images
        return latents, ran

    @contextmanager
    def _marked_encodes(self) -> Iterator[list[float]]:
        """The times at which each `vae.encode` inside the block ended.

        With them the pipeline's call divides into `vae_encode` (preparing the images and encoding them) and `denoise`
        (all that follows), and nothing of it goes uncounted.
        """
        vae = self._pipe.vae
        encode, own = vae.encode, vae.__dict__.get("encode")
        ended: list[float] = []

        def marked(*args: Any, **kwargs: Any) -> Any:
            result = encode(*args, **kwargs)
            ended.append(self._clock())
            return result

        vae.encode = marked
        try:
            yield ended
        finally:
            if own is None:
                del vae.encode
            else:
                vae.encode = own

    def _clock(self) -> float:
        """Seconds, once the device has done all that it was asked for."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _memory(self) -> Memory:
        if self._device.type == "cuda":
            allocated = torch.cuda.max_memory_allocated(self._device)
            reserved = torch.cuda.max_memory_reserved(self._device)
        else:
            allocated = reserved = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peak = self.peak_memory or Memory(peak_allocated=0, peak_reserved=0)
        self.peak_memory = Memory(
            peak_allocated=max(peak.peak_allocated, allocated), peak_reserved=max(peak.peak_reserved, reserved)
        )
        return Memory(peak_allocated=allocated, peak_reserved=reserved)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _ALLOCATION_FAILED)


def _does_not_fit(item: PaintItem, error: Exception) -> DeviceOutOfMemoryError:
    reason = " ".join(str(error).split())[:300]
    key = item.key
    return DeviceOutOfMemoryError(
        f"row {item.row} at {key.width}x{key.height} does not fit the memory by itself ({reason}): "
        "use the tuning low-memory, or a card with more memory"
    )
