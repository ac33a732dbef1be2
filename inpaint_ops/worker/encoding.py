"""Painted pixels to a row's files: the stages `composite` and `encode` of a row."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint_ops import images
from inpaint_ops.config import EXTENSIONS
from inpaint_ops.protocol import Done
from inpaint_ops.records import LedgerEntry, MaskArea, Timings, now
from inpaint_ops.worker.decoding import DecodedRow
from inpaint_ops.worker.finishing import avif_options, making
from inpaint_ops.worker.parts import finish_parts
from inpaint_ops.worker.row_lines import RowLines
from inpaint_ops.worker.scoring import scored
from inpaint_ops.worker.setup import WorkerSetup
from inpaint_ops.worker.side_products import write_patiently, write_side_products

if TYPE_CHECKING:
    import numpy as np

    from inpaint_ops.engine import PaintResult


class RowEncoder:
    """Joins and writes painted rows, in several threads at a time."""

    def __init__(self, setup: WorkerSetup, ledger: tuple[LedgerEntry, ...], lines: RowLines) -> None:
        self._job, self._loaded, self._lines = setup.job, setup.loaded, lines
        self._scheduler = next((one.effective for one in ledger if one.name == "scheduler"), "")

    def encode(self, row: DecodedRow, result: PaintResult, canvases: Sequence[PaintResult]) -> Done:
        """Write the row's files, and return what tells of them. `result` is that of all `canvases` together.

        Raises what is wrong with the picture, or with the folder that it is written into.
        """
        assert result.batch is not None and result.memory is not None
        item, timings = row.item, joined_timings(row.timings, result.timings)
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
        made_by = making(item, self._loaded.identity, row.parts[0].placement.working, result, self._scheduler)
        metadata, marks = images.marked(row.source.metadata, made_by, policy=self._job.provenance, format=item.format)
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
        return Done(
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
            unguided_steps=result.unguided_steps,
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
            timings=joined_timings(
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

    def _write_thumbnails(self, row: DecodedRow, pixels: np.ndarray) -> tuple[tuple[int, ...], str]:
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


def joined_timings(first: Timings, second: Timings) -> Timings:
    """The seconds of both; of a stage that both have, the second's."""
    return Timings(**(first.model_dump(exclude_none=True) | second.model_dump(exclude_none=True)))


def _area(weights: np.ndarray) -> MaskArea:
    box, share = images.mask_area(weights)
    return MaskArea(box=box, share=share)
