"""The engine: seeds, denoise, decode, out-of-memory back-off."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from PIL import Image

from inpaint_ops.config import PromptSyntax
from inpaint_ops.engine.batching import BatchKey, PaintItem, PaintResult
from inpaint_ops.engine.decoding import decode_checked
from inpaint_ops.engine.failures import does_not_fit, in_short
from inpaint_ops.engine.guidance import Cutoffs, Steps
from inpaint_ops.engine.listener import Listener, LoggingListener
from inpaint_ops.engine.measuring import DeviceMeter, Measurements, PaintedBatch
from inpaint_ops.engine.model import PaintingModel
from inpaint_ops.engine.output_checks import can_widen, cast, dtypes_of, in_float32
from inpaint_ops.engine.prompts import PROMPTS_KEPT, Prompts
from inpaint_ops.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    FlatImageError,
    NonFiniteImageError,
)
from inpaint_ops.model.torch_errors import is_compiler_failure, is_device_lost, is_out_of_memory
from inpaint_ops.protocol import Text, unit_name
from inpaint_ops.records import Batch, LedgerEntry, Timings

log = logging.getLogger(__name__)


class Engine:
    """Paints batches with one model on one device; not safe for threads. Between calls the pipeline is as it was.

    Where the model is compiled, every batch is filled up to the next power of two, or to `batch_size`, with copies of
    its last row, whose images are dropped: so there are few shapes to compile, and at most half of a batch is copies.
    """

    def __init__(
        self,
        model: PaintingModel,
        listener: Listener | None = None,
        *,
        prompts_kept: int = PROMPTS_KEPT,
        prompt_syntax: PromptSyntax = "plain",
    ) -> None:
        self._model = model
        self._pipe = model.pipe
        self._listener: Listener = listener or LoggingListener()
        self._fixed_size = model.is_compiled
        self.prompts = Prompts(self._pipe, prompts_kept, prompt_syntax)
        """The rows' texts, encoded."""
        self._device = torch.device(self._pipe._execution_device)
        self._meter = DeviceMeter(self._device)
        self._started = 0
        self.batch_size = model.tuning.batch_size
        """Rows that a batch may have: the tuning's choice, or less once memory ran out."""
        self.released_bytes = 0
        """Bytes of text encoder weights that were dropped once all prompts were encoded."""
        self.measurements = Measurements()
        """The figures of all batches so far."""
        self._cutoffs = Cutoffs()
        self._unusable: DeviceOutOfMemoryError | None = None
        """Why nothing more can be painted: weights that were moved or cast for one row are not as they were."""
        self._pipe.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def prepare_prompts(self, texts: Sequence[Text]) -> None:
        """Encode every text that rows will bring (MAX_PROMPTS at most), before the first batch.

        Raises DeviceOutOfMemoryError where not even the encoders fit.
        """
        try:
            try:
                self.prompts.prepare(texts, self._listener.prompt_encoded)
            finally:
                self._pipe.maybe_free_model_hooks()  # to the host, which may not have the memory
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceOutOfMemoryError(
                f"the text encoders do not fit the memory ({in_short(error)}): "
                "use the tuning low-memory, or a card with more memory"
            ) from None

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

    def with_measured(self, ledger: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
        """The ledger with `measured` filled in, and with what became of cutoffs of guidance, where rows had any."""
        released = {
            "texts_encoded": float(self.prompts.encoded), "chunks_encoded": float(self.prompts.chunks_encoded),
            "released_bytes": float(self.released_bytes),
        }  # fmt: skip
        ledger = (*ledger, *self._cutoffs.entries())
        return self.measurements.fill(ledger, {"release_text_encoders": released})

    def paint(self, batch: Sequence[PaintItem]) -> Iterator[PaintResult]:
        """Paint rows of one BatchKey; yield exactly one result for each, in order, as parts of the batch get done.

        Out of memory halves `batch_size` for good and tries the same rows again; a single row that does not fit is
        tried once more with the model's `relieve`, and then fails with DeviceOutOfMemoryError. Weights that do not fit
        the device again after that stay on the host between their turns. Where compiling fails, the model goes on
        without. A patch that is not finite, or flat for no reason, is decoded again in float32; if that does not help,
        its row is painted again in float32; then it fails with what was wrong with the first one. Any other exception
        makes the rows go on one by one, so that only the row that causes it fails.

        Raises ValueError for rows of several keys; DeviceLostError where the device's context is lost, and
        DeviceOutOfMemoryError where weights that were moved or cast for one row fit neither the device nor the host
        again: then no later batch in this process can work. A row that was painted has had its result before.
        """
        if len({item.key for item in batch}) > 1:
            raise ValueError(
                "a batch holds rows of one size, one number of steps, one guidance with one cutoff, one strength and "
                "one set of LoRAs"
            )
        try:
            yield from self._paint_all(batch)
        except Exception as error:
            # Weights that move between two attempts, and the allocator's cache, find a lost device too.
            if isinstance(error, DeviceLostError) or not is_device_lost(error):
                raise
            raise DeviceLostError(f"the device failed: {in_short(error, 300)}") from error

    def _paint_all(self, batch: Sequence[PaintItem]) -> Iterator[PaintResult]:
        """The results of `paint`."""
        waiting = deque(batch)
        alone = 0  # rows at the head of `waiting` that go one by one, since together they failed
        while waiting:
            if self._unusable is not None:
                raise self._unusable
            size = 1 if alone else min(self.batch_size, len(waiting))
            rows = list(islice(waiting, size))
            results, failure = self._attempt(rows)
            if failure is not None and is_out_of_memory(failure):
                self._free()
                if (tried := self._filled(size)) > 1:
                    self._shrink(tried, failure)
                    continue
                results, failure = self._attempt_relieved(rows[0], failure)
            elif self._fixed_size and failure is not None and is_compiler_failure(failure):
                self._fixed_size = False
                self._model.uncompile(failure)
                self._listener.warning(f"compiling failed, the model runs without: {in_short(failure)}")
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
        """Results, or the exception, without its traceback, whose frames would hold the batch's tensors. Whatever says
        that memory ran out comes as torch.OutOfMemoryError. Raises DeviceLostError, and DeviceOutOfMemoryError where
        the VAE could not be cast back.
        """
        try:
            with self._model.kernels():
                return self._paint(rows), None
        except DeviceOutOfMemoryError:
            raise
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLostError(f"the device failed: {in_short(error, 300)}") from error
            if is_out_of_memory(error):
                return [], torch.OutOfMemoryError(in_short(error, 300))
            log.exception("painting rows %s failed", ", ".join(unit_name(item.row) for item in rows))
            error.__context__ = error.__cause__ = None
            return [], error.with_traceback(None)

    def _attempt_relieved(self, row: PaintItem, error: Exception) -> tuple[list[PaintResult], Exception | None]:
        """Once more, with less memory; afterwards the pipeline is as it was, for the rows that fit without, unless its
        weights no longer fit the device.
        """
        block = self._model.relieve()
        if block is None:
            return [], does_not_fit(row, error)
        results: list[PaintResult] = []
        failure: Exception | None = error
        try:
            with block:
                results, failure = self._attempt([row])
                self._free()  # before the weights come back
        except DeviceOutOfMemoryError as moving:
            self._unusable = moving
        except Exception as moving:
            if not is_out_of_memory(moving):
                raise
            self._listener.out_of_memory(f"row {unit_name(row.row)}: {in_short(moving)}")
        self._free()
        if failure is not None:
            return [], does_not_fit(row, failure) if is_out_of_memory(failure) else failure
        size = f"{row.key.width}x{row.key.height}"
        self._listener.out_of_memory(
            f"row {unit_name(row.row)} at {size} did not fit the memory by itself: painted as with low-memory"
        )
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
        except DeviceOutOfMemoryError as error:
            self._unusable = error
            return bad
        except Exception as error:  # no memory, or a part that cannot be cast
            if isinstance(error, DeviceLostError) or is_device_lost(error):
                raise
            log.warning("row %s could not be painted again in float32: %s", unit_name(row.row), error)
            return bad
        finally:
            self._fixed_size = fixed
            self._free()
        if failure is not None or results[0].error is not None:
            return bad
        note = f"painted again in float32, since the first patch was not finite or flat ({was})"
        log.warning("row %s was %s", unit_name(row.row), note)
        return replace(results[0], notes=(*results[0].notes, note))

    def _filled(self, rows: int) -> int:
        """Rows that the model gets to see where `rows` are painted."""
        return min(1 << (rows - 1).bit_length(), max(rows, self.batch_size)) if self._fixed_size else rows

    def _shrink(self, size: int, error: Exception) -> None:
        self.batch_size = size // 2
        self._listener.out_of_memory(
            f"{size} rows at once did not fit the memory: {self.batch_size} from here on ({in_short(error)})"
        )

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _paint(self, rows: Sequence[PaintItem]) -> list[PaintResult]:
        key = rows[0].key
        filled = [*rows, *[rows[-1]] * (self._filled(len(rows)) - len(rows))]
        compiled_before = self._model.compile_seconds()
        self._started += 1
        vae_dtype = self._pipe.vae.dtype
        self._meter.reset_peaks()
        try:
            began = self._meter.clock()
            self.prompts.depends_on = self._model.use_loras(key.loras)
            embeds = self.prompts.embed(filled, guided=self._guided(key), device=self._device)
            embeds = {
                name: value if value is None else value.to(self._pipe.unet.dtype) for name, value in embeds.items()
            }
            embedded = self._meter.clock()
            with self._marked_encodes() as encodes:
                latents, steps = self._denoise(filled, embeds)
            denoised = self._meter.clock()
            images = decode_checked(self._pipe, latents, rows)
            decoded = self._meter.clock()
        finally:
            try:
                # A `force_upcast` VAE is cast to float32 and back: an exception in between must not leave it there.
                if self._pipe.vae.dtype != vae_dtype:
                    cast(self._pipe.vae, vae_dtype)
            finally:
                self._pipe.maybe_free_model_hooks()
        encoded = encodes[-1] if encodes else embedded
        timings = Timings(
            encode_prompt=embedded - began,
            vae_encode=encoded - embedded,
            denoise=denoised - encoded,
            vae_decode=decoded - denoised,
        )
        memory = self._meter.peaks()
        idle = self._cutoffs.add(key, steps, guided=self._guided(key))
        compiling = self._model.compile_seconds() - compiled_before
        self.measurements.add(
            PaintedBatch(key, len(rows), timings, decoded - began - compiling, compiling, memory, began),
            images=sum(error is None for _, error, _ in images),
        )
        batch = Batch(id=f"{self._started:05d}", size=len(rows))
        return [
            PaintResult(
                row=item.row,
                image=image if error is None else None,
                error=error,
                steps=steps.ran,
                unguided_steps=steps.unguided if key.guidance_cutoff < 1 and not idle else 0,
                batch=batch,
                timings=timings,
                memory=memory,
                notes=(*idle, *notes),
            )
            for item, (image, error, notes) in zip(rows, images, strict=True)
        ]

    def _guided(self, key: BatchKey) -> bool:
        """Whether the pipeline will do classifier-free guidance (its `do_classifier_free_guidance`)."""
        return key.guidance_scale > 1 and self._pipe.unet.config.time_cond_proj_dim is None

    def _denoise(self, rows: Sequence[PaintItem], embeds: dict[str, torch.Tensor | None]) -> tuple[torch.Tensor, Steps]:
        """Latents (batch, 4, height / 8, width / 8), scaled, and the steps that ran.

        One image, one mask and one CPU generator per row: one image with several generators would be encoded with the
        first alone, and the device's own generator would tie a row's noise to the batch and the card.
        """
        key = rows[0].key
        steps = Steps(key, self._listener.step)
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
            callback_on_step_end=steps,
            callback_on_step_end_tensor_inputs=steps.inputs,
            **embeds,
        ).images
        return latents, steps

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
            ended.append(self._meter.clock())
            return result

        vae.encode = marked
        try:
            yield ended
        finally:
            if own is None:
                del vae.encode
            else:
                vae.encode = own
