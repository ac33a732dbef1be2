"""From Ready to Bye: rows decoded, painted, composited, encoded, the end of each reported once."""

from __future__ import annotations

import hashlib
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from inpaint_ops import images
from inpaint_ops.config import EXTENSIONS
from inpaint_ops.errors import InpaintOpsError, UnchangedError
from inpaint_ops.protocol import Begun, Bye, Command, Done, End, Failed, Flush, Item, Job, Warn, text_of, unit_name
from inpaint_ops.records import MASKED_LATENTS, ErrorInfo, MaskArea, Model, Stage, Timings, now
from inpaint_ops.worker.finishing import avif_options, feather_when_read, jpeg_options, loras_in_use, making
from inpaint_ops.worker.parts import Part, finish_parts, paint_parts, placements_of, regions_of, seed_of, summed
from inpaint_ops.worker.profiling import Profile
from inpaint_ops.worker.row_lines import RowLines
from inpaint_ops.worker.scoring import scored
from inpaint_ops.worker.setup import WorkerSetup
from inpaint_ops.worker.side_products import write_patiently, write_side_products
from inpaint_ops.worker.tiles import TiledRow, tiles_of

if TYPE_CHECKING:
    import numpy as np

    from inpaint_ops.engine import Batcher, BatchKey, PaintResult

log = logging.getLogger(__name__)

STARTS_AT_NOISE = "at a strength of 1 this model begins with noise alone, and the masked area is never encoded"
"""StableDiffusionXLInpaintPipeline.prepare_latents, diffusers 0.42.1. For a UNet of 4 channels the whole image is
encoded, and its latents beside the mask hold some of what lies under it."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A command that cannot be read."""

    error: ValidationError


class GarbageError(Exception):
    """Raised from the error of a `Garbage` that came during the work."""


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """A row that can be painted, with what it takes to finish it afterwards."""

    item: Item
    source: images.Source
    mask: images.Mask
    regions: images.Regions | None
    parts: tuple[Part, ...]
    """Its canvases; of a row in tiles the first one."""
    tiles: TiledRow | None
    jpeg: images.JpegOptions
    """How its image is written, if that is a JPEG."""
    notes: tuple[str, ...]
    """What its texts lost, and how its canvases were filled otherwise than asked."""
    timings: Timings
    started_at: datetime

    @property
    def key(self) -> BatchKey:
        """Of its first canvas."""
        return self.parts[0].paint.key

    @property
    def is_alone(self) -> bool:
        """Whether it has several canvases, and is painted by itself."""
        return self.tiles is not None or len(self.parts) > 1


@dataclass(frozen=True, slots=True)
class _Ended:
    """A row has had its Done or its Failed."""

    row: int


_Message = Command | Garbage | _Decoded | _Ended
Inbox = queue.SimpleQueue[_Message]


class WorkLoop:
    """From Ready to Bye: rows are decoded in one pool, painted in the calling thread, finished in another pool.

    Painting thus overlaps with decoding the next rows and finishing the last ones. How many rows are inside at a
    time is the supervisor's choice.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        send: Callable[[Model], None],
        inbox: Inbox,
        incoming: ThreadPoolExecutor,
        outgoing: ThreadPoolExecutor,
        lines: RowLines,
    ) -> None:
        from inpaint_ops.engine import Batcher

        self._job, self._loaded, self._engine = setup.job, setup.loaded, setup.engine
        self._cold_start = setup.cold_start
        self._about_device = setup.about_device
        self._profile = Profile(setup.job.profile, self._warn_once)
        self._send, self._inbox = send, inbox
        self._incoming, self._outgoing, self._lines = incoming, outgoing, lines
        self._waiting: Batcher[_Decoded] = Batcher()
        self._alone: deque[_Decoded] = deque()
        """Rows that are painted by themselves."""
        self._decoding: set[int] = set()
        self._finishing: set[int] = set()
        self._flush = self._end = False
        self._last_size = (self._loaded.native_size, self._loaded.native_size)
        ledger = self._loaded.ledger  # looks at the whole pipeline: once, and not for each row
        self._warned: set[str] = set()
        self._scheduler = next((one.effective for one in ledger if one.name == "scheduler"), "")
        self._starts_at_noise = not any(one.effective == MASKED_LATENTS for one in ledger)

    def run(self) -> None:
        """Work until End has come and every row has ended."""
        while True:
            while not self._inbox.empty():
                self._take(self._inbox.get())
            if batch := self._next_batch():
                self._paint(batch)
            elif self._end and not (self._decoding or self._finishing):
                return
            else:
                self._take(self._inbox.get())

    def bye(self) -> Bye:
        """The last event, with what was measured."""
        engine, measured = self._engine, self._engine.measurements
        ledger = self._loaded.inspect(
            self._last_size, batch_size=measured.largest_batch, batch_limit=engine.batch_size, prompts_done=True
        )
        return Bye(
            ledger=engine.with_measured((*ledger, *self._about_device)),
            cold_start=self._cold_start.model_copy(
                update={"first_call": measured.first_call, "compile": measured.compiling}
            ),
            busy=measured.busy,
            painted=measured.painted,
            peak_memory=measured.peak_memory,
        )

    def leave_profile(self) -> None:
        """Write what was profiled, where that was asked for, once all rows have ended."""
        self._profile.write(Path(self._job.scratch))

    def _take(self, message: _Message) -> None:
        match message:
            case Item():
                self._flush = False
                self._decoding.add(message.row)
                self._incoming.submit(self._decode, message)
            case Flush():
                self._flush = True
            case End():
                self._end = True
            case _Decoded():
                self._decoding.discard(message.item.row)
                if message.is_alone:
                    self._alone.append(message)
                else:
                    self._waiting.add(message.key, message)
            case _Ended():
                self._decoding.discard(message.row)
                self._finishing.discard(message.row)
            case Garbage():
                raise GarbageError from message.error
            case Job():
                raise GarbageError("a worker has one job")

    def _next_batch(self) -> list[_Decoded]:
        """A full bucket; when no more rows come for now, the largest; else none, to wait for more rows of one shape."""
        if self._alone:
            return [self._alone.popleft()]
        batch = self._waiting.take_full(self._engine.batch_size)
        if not batch and (self._flush or self._end) and not self._decoding:
            batch = self._waiting.take_largest(self._engine.batch_size)
        return batch

    def _paint(self, batch: list[_Decoded]) -> None:
        rows = tuple(row.item.row for row in batch)
        self._send(Begun(rows=rows, stage="paint"))
        with (
            self._lines.about(*rows),
            self._profile.batch(rows, batch[0].key.steps, lambda: self._engine.measurements.batches),
        ):
            self._paint_begun(batch)

    def _paint_begun(self, batch: list[_Decoded]) -> None:
        self._last_size = batch[0].key.width, batch[0].key.height
        if (first := batch[0]).is_alone:
            results = first.tiles.paint(self._engine) if first.tiles else paint_parts(self._engine, first.parts)
            self._painted(first, summed(results), results)
            return
        by_row = {row.item.row: row for row in batch}
        for result in self._engine.paint([row.parts[0].paint for row in batch]):
            self._painted(by_row[result.row], result, [result])

    def _painted(self, row: _Decoded, result: PaintResult, canvases: Sequence[PaintResult]) -> None:
        if result.error is not None:
            self._fail(row.item, result.error, "denoise", row.started_at, _joined(row.timings, result.timings))
            return
        self._finishing.add(row.item.row)
        self._outgoing.submit(self._finish, row, result, canvases)

    def _decode(self, item: Item) -> None:
        """In the incoming pool: files to a row on its working size."""
        with self._lines.about(item.row), self._profile.span("decode", row=item.row):
            self._decode_row(item)

    def _decode_row(self, item: Item) -> None:
        from inpaint_ops.engine import BatchKey, PaintItem

        started_at, clock = now(), time.perf_counter()
        try:
            self._send(Begun(rows=(item.row,), stage="decode"))
            limit = self._job.max_pixels
            data = Path(item.image).read_bytes()
            source = images.decode_source(data, max_pixels=limit, metadata=self._job.metadata, frames=self._job.frames)
            images.check_writable(item.format)
            images.check_profile(source.icc, item.format)
            images.check_output_size(source.size, item.format)
            mask = images.read_mask(
                Path(item.mask).read_bytes(),
                size=source.size,
                max_pixels=limit,
                channel=item.mask_channel,
                threshold=item.mask_threshold,
                resize=self._job.mask_resize == "nearest",
                invert=item.mask_invert,
                dilate=item.mask_dilate,
                blur=feather_when_read(item),
            )
            native = self._loaded.native_size
            regions = regions_of(item, source, mask.weights, native)
            guided = item.guidance_scale > 1
            prompt = text_of(item.prompt, item.prompt_2) or ""
            negative = text_of(item.negative_prompt, item.negative_prompt_2)
            chunks, notes = self._engine.prompts.shape(prompt, negative, guided=guided)
            fill = item.fill
            if fill != "original" and item.strength == 1 and self._starts_at_noise:
                fill, notes = "original", (*notes, f"fill {fill} had no effect: {STARTS_AT_NOISE}")
                self._warn_once(f"fill {item.fill} had no effect on some rows: {STARTS_AT_NOISE}")

            def prepare(
                number: int, placement: images.Placement, rgb: np.ndarray, working: np.ndarray
            ) -> tuple[Part, tuple[str, ...]]:
                seed = seed_of(item, number)
                with self._profile.span("fill", row=item.row):
                    rgb, unlike = images.fill_masked(rgb, working, placement, fill, seed, self._loaded.lama)
                key = BatchKey(
                    *placement.working, item.steps, item.guidance_scale, item.strength, chunks, loras_in_use(item)
                )
                return Part(placement, PaintItem(item.row, key, rgb, working, prompt, negative, seed)), unlike

            tiles = tiles_of(item, source, mask.weights, native, prepare)
            placements = placements_of(item, source, mask.weights, native, regions) if tiles is None else tiles.first
            parts = []
            for number, placement in enumerate(placements):
                part, unlike = prepare(number, placement, *images.to_working(source, mask.weights, placement))
                parts.append(part)
                notes += tuple(one for one in unlike if one not in notes and tiles is None)
            jpeg = jpeg_options(self._job)
            if item.as_source:
                jpeg, unlike = images.options_like(data, source, item.format, jpeg)
                notes += unlike
            timings = Timings(decode=time.perf_counter() - clock)
            self._inbox.put(
                _Decoded(item, source, mask, regions, tuple(parts), tiles, jpeg, notes, timings, started_at)
            )
        except Exception as error:
            self._fail(item, error, "decode", started_at, Timings(decode=time.perf_counter() - clock))
            self._inbox.put(_Ended(item.row))

    def _finish(self, row: _Decoded, result: PaintResult, canvases: Sequence[PaintResult]) -> None:
        """In the outgoing pool: painted pixels to a file."""
        with self._lines.about(row.item.row), self._profile.span("encode", row=row.item.row):
            self._finish_row(row, result, canvases)

    def _finish_row(self, row: _Decoded, result: PaintResult, canvases: Sequence[PaintResult]) -> None:
        item, timings = row.item, _joined(row.timings, result.timings)
        try:
            assert result.batch is not None and result.memory is not None
            self._send(Begun(rows=(item.row,), stage="encode"))
            clock = time.perf_counter()
            weights, alpha = row.mask.weights, self._job.alpha
            joined = (
                finish_parts(item, row.source, weights, row.parts, canvases, row.regions, alpha)
                if row.tiles is None
                else row.tiles.finish(item, row.source, weights, alpha)
            )
            pixels = joined.pixels
            change = images.visible_change(row.source.pixels, pixels, joined.weights)
            images.check_changed(change, self._job.unchanged_threshold)
            measures, cut = scored(
                images.measure(pixels, joined.weights),
                self._loaded.scorers, item, row.source.pixels, pixels, joined.weights, syntax=self._job.prompt_syntax,
            )  # fmt: skip
            composited = time.perf_counter()
            made_by = making(item, self._loaded.identity, row.parts[0].placement.working, result.steps, self._scheduler)
            metadata, marks = images.marked(
                row.source.metadata, made_by, policy=self._job.provenance, format=item.format
            )
            data = images.encode(
                pixels,
                format=item.format,
                icc=row.source.icc,
                metadata=metadata,
                effort=self._job.png,
                jpeg=row.jpeg,
                avif=avif_options(self._job),
            )
            write_patiently(Path(item.output), data)
            sizes, problem = self._write_thumbnails(row, pixels)
            kinds, missing = write_side_products(item, self._job, row.source, joined, made_by)
            done = Done(
                row=item.row,
                output=item.output,
                sha256=hashlib.sha256(data).hexdigest(),
                bytes=len(data),
                width=row.source.width,
                height=row.source.height,
                format=item.format,
                media_type=images.MEDIA_TYPES[item.format],
                extension=EXTENSIONS[item.format],
                steps=result.steps,
                working_size=row.parts[0].placement.working,
                conversions=(
                    row.notes
                    + row.source.conversions
                    + row.mask.conversions
                    + result.notes
                    + joined.notes
                    + cut
                    + images.alpha_conversions(row.source.pixels, pixels)
                    + images.output_conversions(row.source, item.format, row.jpeg, avif_options(self._job))
                    + marks
                ),
                change=change,
                joining=joined.joining,
                regions=joined.regions,
                tiles=joined.tiles,
                mask_area=_area(joined.weights),
                measures=measures,
                batch=result.batch,
                timings=_joined(
                    timings, Timings(composite=composited - clock, encode=time.perf_counter() - composited)
                ),
                memory=result.memory,
                log=self._lines.take(item.row),
                thumbnail_sizes=sizes,
                thumbnail_problem=problem,
                side_product_kinds=kinds,
                side_product_problem=missing,
                started_at=row.started_at,
                finished_at=now(),
            )
            self._send(done)
        except Exception as error:
            self._fail(item, error, "encode", row.started_at, timings)
        self._inbox.put(_Ended(item.row))

    def _write_thumbnails(self, row: _Decoded, pixels: np.ndarray) -> tuple[tuple[int, ...], str]:
        """Put small pictures beside the output: their sizes, and why there are no more. The row is done without them.

        Their time is the row's `encode`, as the output's is.
        """
        sizes: list[int] = []
        if not self._job.thumbnails:
            return (), ""
        try:
            for size, data in images.thumbnails(pixels, icc=row.source.icc):
                Path(row.item.output).with_name(images.thumbnail_name(size)).write_bytes(data)
                sizes.append(size)
        except Exception as error:
            return tuple(sizes), f"{type(error).__name__}: {error}"
        return tuple(sizes), ""

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._send(Warn(message=message))

    def _fail(self, item: Item, error: Exception, stage: Stage, started_at: datetime, timings: Timings) -> None:
        if not isinstance(error, InpaintOpsError):
            with self._lines.about(item.row):
                log.error("row %s: %s failed", unit_name(item.row), stage, exc_info=error)
        info = ErrorInfo.of(error, stage)
        self._send(
            Failed(
                row=item.row,
                error=info,
                change=error.change if isinstance(error, UnchangedError) else None,
                timings=timings,
                log=self._lines.take(item.row),
                started_at=started_at,
                finished_at=now(),
            )
        )


def _area(weights: np.ndarray) -> MaskArea:
    box, share = images.mask_area(weights)
    return MaskArea(box=box, share=share)


def _joined(first: Timings, second: Timings) -> Timings:
    return Timings(**(first.model_dump(exclude_none=True) | second.model_dump(exclude_none=True)))
