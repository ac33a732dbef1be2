"""A plan and what was measured before -> Forecast: seconds, GPU-seconds and peak memory, and their basis. Pure.

Two sources, the better first: an earlier run in this store of the same model, tuning and card, as its report measured
it; else the benchmark's table, which comes with the package (`estimates.json`; `python -m bench.estimates` writes it).
With neither, everything is unknown: nothing is guessed.

Seconds of a shard = cold start + chunks of its prompts x seconds per chunk + steps of its canvases x seconds per step +
canvases x the other stages + images x waiting. So both sources scale with steps, and with the variants of the rows. All
working sizes of a model have about the same area, so size needs no scaling. A step without guidance (`guidance_cutoff`)
counts as half of one, in what was measured as in what is to come: that is its share of the UNet's operations.

An image is one canvas, but where its row says `crop: regions` or `crop: tiles`: how many those are depends on masks,
which nothing has opened when a run is planned. Such images count as many canvases as they had on average in the newest
run that had any.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.resources import files
from itertools import compress
from typing import Any, Literal

from pydantic import Field

from inpaint_ops.config import DEFAULT_MODEL
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import Amount, Bytes, Forecast, Model, Moment, Pace, RunSummary
from inpaint_ops.row_work import CROPS, RowWork
from inpaint_ops.wording import counted

SAME_LAYERS = {DEFAULT_MODEL: "sdxl-random"}
"""Models whose speed and memory were measured with random weights of the same layer sizes (model/random_weights.py)."""


@dataclass(frozen=True, slots=True)
class Cropped:
    """Those images of a shard whose row has one `crop` of which an image may take several canvases."""

    images: int = 0
    steps: float = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What one shard has to do: its images, and the denoising steps of all of them that will really run."""

    rows: int
    """Images: each variant of a row counts."""
    steps: float
    """One without guidance counts as half."""
    chunks: int = 0
    """Chunks of its distinct prompts, which its worker encodes before the first batch; an estimate."""
    regions: Cropped = Cropped()
    tiles: Cropped = Cropped()
    unguided: int = 0
    """How many of the steps that run are without guidance."""

    def with_canvases(self, means: Mapping[str, float]) -> tuple[float, float]:
        """Canvases, and steps of all of them; `means` has the canvases of an image, by crop."""
        more = [(means.get(name, 1.0) - 1.0, getattr(self, name)) for name in CROPS if name]
        canvases = self.rows + sum(mean * one.images for mean, one in more)
        return canvases, self.steps + sum(mean * one.steps for mean, one in more)


def work_of(rows: RowWork, *, texts: bool = True) -> Work:
    """What these rows have to do together, in one shard; without `texts`, less their prompts."""
    chunks = sum(dict(zip(rows.texts, rows.chunks, strict=True)).values()) if texts else 0
    unguided = list(map(operator.mul, rows.unguided, rows.images))
    steps = [ran * images - less / 2 for ran, images, less in zip(rows.steps, rows.images, unguided, strict=True)]
    cropped = {
        name: Cropped(sum(compress(rows.images, marks)), sum(compress(steps, marks)))
        for number, name in enumerate(CROPS)
        if name and any(marks := [crop == number for crop in rows.crops])
    }
    return Work(sum(rows.images), sum(steps), chunks, **cropped, unguided=sum(unguided))


class Experience(Model):
    """What one finished run measured, kept for the next forecast under the key of its model and tuning."""

    schema_version: Literal[1] = 1
    run: str
    card: str
    pace: Pace
    cold_start: Amount = Field(description="Seconds per worker, on average.")
    prompts: Amount = Field(default=0.0, description="Of it, seconds that prompts took before the first batch.")
    chunk_seconds: Amount = Field(default=0.0, description="Of it, per chunk of 77 tokens; 0: not known.")
    peak_reserved: Bytes | None = Field(description="Bytes; None where the card's memory was not measured.")
    finished_at: Moment


class Benchmark(Model):
    """One measured cell of a benchmark. Seconds are of one image, its share of the batch."""

    source: str = Field(description="The file of results.")
    measured_on: date
    versions: dict[str, str] = Field(default_factory=dict)
    device: str
    kind: Literal["cuda", "cpu"]
    model: str
    preset: str
    tuning: dict[str, Any] = Field(description="As planned for that card, less the batch size.")
    batch: int
    size: tuple[int, int]
    steps: int = Field(description="Steps that ran.")
    step_seconds: float
    other_seconds: float
    peak_reserved: int | None
    cold_start: float | None


class BenchmarkTable(Model):
    """`estimates.json`, with its provenance."""

    schema_version: Literal[1] = 1
    made_by: str
    rows: tuple[Benchmark, ...] = ()


def dump_table(table: BenchmarkTable) -> str:
    """The table as the package holds it."""
    return table.model_dump_json(indent=1) + "\n"


@lru_cache(maxsize=1)
def benchmark_table() -> BenchmarkTable:
    """The table that comes with the package."""
    return BenchmarkTable.model_validate_json((files("inpaint_ops") / "estimates.json").read_bytes())


_IRRELEVANT = {
    "model_revision", "quality", "steps", "guidance_scale", "guidance_cutoff", "strength", "row_limit", "shard_rows",
    "failure_threshold",
    "prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "prompt_syntax", "blend", "match", "grain",
    "sharpen", "fill", "fill_model", "tokenizer", "few_step", "variants", "pick", "names", "sample", "profile",
    "project", "side_products", "format", "clip_model", "lpips_model",
}  # fmt: skip
"""Fields of a job that leave the seconds of a step alone. Without guidance a step is half the work: that is a key."""


_ADDED = ("vae", "loras")
"""Fields that came later, and are no part of the key where a job leaves them out: what is in a store is still found."""


def experience_key(job: JobOptions) -> str:
    """The name under which runs of this model and tuning are alike: a readable beginning and a digest."""
    same = job.model_dump(mode="json", exclude=_IRRELEVANT) | {"guided": job.guidance_scale > 1}
    for name in _ADDED:
        if not same[name]:
            del same[name]
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{job.model}-{job.tuning}").strip("-")[-60:].lstrip("-")
    return f"{words}-{digest}"


def experience(summary: RunSummary) -> Experience | None:
    """What `summary` measured; None for a run that painted nothing, or on unlike cards."""
    cards = {device.name for device in summary.devices}
    if summary.pace is None or summary.finished_at is None or len(cards) != 1:
        return None
    on_card = summary.devices[0].kind == "cuda"
    prompts = summary.cold_start.prompts if summary.cold_start else 0.0
    chunks = next((one.count for one in summary.choices if one.choice == "prompts"), 0)
    return Experience(
        run=summary.run,
        card=cards.pop(),
        pace=summary.pace,
        cold_start=summary.cold_start.total if summary.cold_start else 0.0,
        prompts=prompts,
        chunk_seconds=prompts * summary.workers / chunks if chunks else 0.0,
        peak_reserved=summary.peak_memory.peak_reserved if summary.peak_memory and on_card else None,
        finished_at=summary.finished_at,
    )


def forecast(
    job: JobOptions,
    work: Sequence[Work],
    history: Sequence[Experience],
    *,
    card: str | None = None,
    devices: int = 1,
    table: BenchmarkTable | None = None,
) -> Forecast:
    """What a run of `work`, one element per shard, will take on `devices` cards called `card`.

    `history` holds earlier runs of the same model and tuning (`experience_key`), in any order. Without a `card`, as
    where the plan is made on another machine than the painting, that of the newest run is assumed: the basis states it.
    """
    means, about = _canvases(work, history)
    if unguided := sum(one.unguided for one in work):
        about += f"; {unguided:,} steps without guidance count as half of one each"
    alike = [past for past in history if card is None or past.card == card]
    if alike:
        past = max(alike, key=lambda one: one.finished_at)
        assumed = "" if card else ", assuming the same card"
        scaled = _scaled(work, past.pace.steps)
        return _add_up(
            work, devices, past.card, past.cold_start - (past.prompts if past.chunk_seconds else 0.0),
            past.pace.step_seconds, past.pace.other_seconds, past.pace.waiting_seconds, past.peak_reserved,
            f"run {past.run} in this store on {past.card}{assumed} ({past.pace.images} images{scaled}){about}",
            means, past.chunk_seconds,
        )  # fmt: skip
    row = _closest(job, work, card, (benchmark_table() if table is None else table).rows)
    if row is not None:
        layers = "" if row.model == job.model else f", {row.model} with the same layers"
        return _add_up(
            work, devices, row.device, row.cold_start or 0.0, row.step_seconds, row.other_seconds, 0.0,
            row.peak_reserved,
            f"the benchmark of {row.measured_on} on {row.device} (tuning {row.preset}, batch {row.batch}"
            f"{layers}{_scaled(work, row.steps)}); waiting for storage is not in it"
            + ("" if row.cold_start else ", nor the cold start") + about,
            means,
        )  # fmt: skip
    others = sorted({past.card for past in history})
    where = f" on {card}" if card else ""
    there = f"; there are runs on {', '.join(others)}" if others else ""
    return Forecast(
        devices=devices,
        card=card or "",
        basis=f"unknown: no earlier run of {job.model} with tuning {job.tuning}{where} in this store{there}, and no "
        "benchmark of it",
    )


def _canvases(work: Sequence[Work], history: Sequence[Experience]) -> tuple[dict[str, float], str]:
    """Canvases of an image by its row's crop, as far as the work has such rows and a run in the store says; and what
    the forecast's basis says of them.
    """
    means, about = {}, ""
    for name in CROPS:
        images = sum(getattr(one, name).images for one in work) if name else 0
        if not images:
            continue
        knowing = [past for past in history if name in past.pace.canvases]
        if knowing:
            past = max(knowing, key=lambda one: one.finished_at)
            means[name] = max(1.0, past.pace.canvases[name])  # type: ignore[index]
            about += f"; an image of crop {name} counts as {means[name]:.3g} canvases, as in run {past.run}"
        else:
            about += (
                f"; {counted(images, 'image')} of crop {name} count as one canvas each, since "
                "how many they take is not known before a run has painted some: they may take much longer"
            )
    return means, about


def _add_up(work: Sequence[Work], devices: int, card: str, cold: float, step: float, canvas: float, image: float,
            peak: int | None, basis: str, means: Mapping[str, float], chunk: float = 0.0) -> Forecast:  # fmt: skip
    shards = []
    for one in work:
        canvases, steps = one.with_canvases(means)
        shards.append(cold + one.chunks * chunk + steps * step + canvases * canvas + one.rows * image)
    rows = sum(one.rows for one in work)
    start = cold + (sum(one.chunks for one in work) * chunk / len(work) if work else 0.0)
    return Forecast(
        seconds=_longest(shards, devices),
        gpu_seconds=sum(shards),
        seconds_per_image=(sum(shards) - start * len(shards)) / rows if rows else None,
        cold_start=start,
        peak_memory=peak,
        devices=devices,
        card=card,
        basis=basis,
    )


def _longest(shards: Sequence[float], devices: int) -> float:
    """When the last of `devices` is done, each taking the next shard as it gets free."""
    ends = [0.0] * devices
    for seconds in shards:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _scaled(work: Sequence[Work], steps: float) -> str:
    rows = sum(one.rows for one in work)
    mean = sum(one.steps for one in work) / rows if rows else steps
    return "" if abs(mean - steps) < 0.5 else f", scaled from {steps:.3g} steps to {mean:.3g}"


def _closest(job: JobOptions, work: Sequence[Work], card: str | None, rows: Sequence[Benchmark]) -> Benchmark | None:
    """The measured cell that is most like the job: its batch first, then its steps. Other tunings are no basis."""
    wished = {name: value for name, value in job.tuning_overrides.items() if name != "batch_size"}
    batch = job.tuning_overrides.get("batch_size")
    model = SAME_LAYERS.get(job.model, job.model)
    alike = [
        row
        for row in rows
        if card == row.device
        and job.guidance_scale > 1
        and job.scheduler in ("model", "euler")
        and row.model in (job.model, model)
        and row.preset == job.tuning
        and all(row.tuning.get(name) == value for name, value in wished.items())
        and (job.use_xformers is None or (row.tuning.get("attention") == "xformers") == job.use_xformers)
    ]
    if batch is not None:
        alike = [row for row in alike if row.batch == int(batch)]
    count = sum(one.rows for one in work)
    steps = sum(one.steps for one in work) / count if count else 0.0
    return min(alike, key=lambda row: (-row.batch, abs(row.steps - steps)), default=None)
