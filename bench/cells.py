"""What can be measured: cells, each one configuration at one size, number of steps and batch. Pure data, no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from inpaint_ops.device import GB
from inpaint_ops.records import Model

Part = Literal["ceilings", "presets", "ablation", "batch", "cold", "tiers"]
PARTS: tuple[Part, ...] = ("ceilings", "presets", "ablation", "batch", "cold", "tiers")

TIERS = (10, 24, 40)
"""The notes' cards (10), in 1e9 bytes: an RTX 3080, a 24 GB card, an A100-40."""

CUTOFF = 0.6
"""Of 19 steps that run, 12 have guidance."""

EXPECTED_ROWS = 1000
"""The job's size that the planner gets: enough for `fast` to compile."""


class Cell(Model):
    """One thing to measure. Cells of one `process` share a fresh process, in their order."""

    name: str = Field(description="Unique in a run: part/what/steps or batch.")
    part: Part
    process: str = Field(description="Cells of the same name share one process.")
    kind: Literal["paint", "ceilings", "folder", "cold"] = "paint"
    model: str = ""
    preset: str = "auto"
    overrides: dict[str, Any] = Field(default_factory=dict, description="Fields of Tuning, over the preset.")
    flips: str | None = Field(default=None, description="The field that an ablation row is about.")
    off: str | None = Field(default=None, description="The cell that this one is compared with.")
    beside: dict[str, Any] | None = Field(
        default=None, description="The partner's overrides: its batches are timed too, in turn with this one's."
    )
    note: int | None = Field(default=None, description="The optimisation note, 1 to 10.")
    size: int | None = Field(default=None, description="Side in pixels; None: the model's native size.")
    steps: int = 0
    guidance_cutoff: float = Field(default=1.0, description="The share of the steps after which guidance is off.")
    batch: int | None = Field(default=1, description="Rows together; None: the planner's choice.")
    repeats: int = 3
    warm_ups: int = Field(default=2, description="Short batches before the timed ones; the first compiles.")
    cap: int | None = Field(default=None, description="Bytes that the process may have of the card.")
    from_folder: bool = Field(
        default=False,
        description="Load from a folder on disk, which is written if it is not there, and not make weights.",
    )
    needs: str | None = Field(default=None, description="The cell without whose result this one is worth nothing.")
    importance: int = Field(description="The least important is dropped first.")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ablation: `on` is laid over the plain configuration, `off` (if any) over that of its partner."""

    name: str
    field: str
    note: int | None
    on: dict[str, Any]
    off: dict[str, Any] = dataclasses.field(default_factory=dict)
    batch: int = 1
    importance: int = 75
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of both cells, or of the cell that is on alone."""
    of_partner: bool = True
    """Whether `more` is the partner's too."""
    alone: bool = False
    """In a process of its own: what it does to the process cannot be undone."""


def plain(device: str) -> dict[str, Any]:
    """The configuration against which each optimisation is switched on alone: everything optional is off."""
    return {
        "dtype": "float32" if device == "cpu" else "float16",
        "attention": "sdpa",
        "attention_slicing": False,
        "vae_tiling": False,
        "vae_slicing": False,
        "channels_last": False,
        "fuse_qkv": False,
        "compile": "off",
        "offload": "none",
        "release_text_encoders": False,
    }


def rows(device: str, native: int) -> tuple[Row, ...]:
    """The ablation's rows. `native` is the model's side in pixels: the tile size that surely triggers is half of it."""
    tile = max(16, native // 2 // 8 * 8)
    common = (
        Row("attention: xformers over sdpa", "attention", 2, {"attention": "xformers"}, importance=77),
        Row("attention slicing", "attention_slicing", 3, {"attention": "sliced", "attention_slicing": True}),
        Row("VAE tiling, half-size tiles", "vae_tiling", 4, {"vae_tiling": True, "vae_tile_size": tile}, importance=74),
        Row("VAE slicing, batch 4", "vae_slicing", 8, {"vae_slicing": True}, batch=4, importance=60),
        Row("text encoders released", "release_text_encoders", 8, {"release_text_encoders": True}, importance=68),
        Row("channels_last", "channels_last", None, {"channels_last": True}, importance=73),
        Row("fused QKV", "fuse_qkv", None, {"fuse_qkv": True}, importance=70),
        *(
            Row(f"guidance off after {CUTOFF:g} of the steps{of}", "guidance_cutoff", None, {}, batch=batch,
                importance=59, more={"guidance_cutoff": CUTOFF}, of_partner=False)
            for batch, of in ((1, ""), (4, ", batch 4"))
        ),
        Row("compile: regional", "compile", 9, {"compile": "regional"}, importance=72, alone=True),
    )  # fmt: skip
    if device == "cpu":
        return (*common, Row("16 bits over 32", "dtype", 1, {"dtype": "bfloat16"}))
    return (
        Row(
            "16 bits over 32",
            "dtype",
            1,
            {"dtype": "float16"},
            {"dtype": "float32"},
            importance=76,
            more={"repeats": 1, "warm_ups": 1},
        ),
        Row("bfloat16 over float16", "dtype", 1, {"dtype": "bfloat16"}, importance=45),
        *common,
        Row("compile: reduce-overhead", "compile", 9, {"compile": "reduce-overhead"}, importance=35, alone=True),
        Row("compile: max-autotune", "compile", 9, {"compile": "max-autotune"}, importance=10, alone=True),
        Row("attention: flash over sdpa's own choice", "attention", 2, {"attention": "sdpa-flash"}, importance=46),
        Row("attention: cuDNN over sdpa's own choice", "attention", 2, {"attention": "sdpa-cudnn"}, importance=71),
        # From a folder: made on the card, random weights are made in host memory only slowly.
        *(
            Row(f"offload: {how}", "offload", 10, {"offload": how}, importance=weight, more={"from_folder": True},
                of_partner=False)
            for how, weight in (("model", 30), ("group", 29), ("sequential", 12))
        ),
    )  # fmt: skip


def ablation(
    device: str, model: str, native: int, steps: int, repeats: int, *, in_turn: bool = False
) -> Iterator[Cell]:
    """The plain configuration, each row switched on alone, and the plain one again, for drift.

    `in_turn` times a row's two sides by turns, both models loaded: what else the machine does then touches both.
    """
    base = plain(device)
    table = rows(device, native)
    bases: dict[tuple[tuple[tuple[str, Any], ...], int], str] = {}
    later: list[Cell] = []

    def cell(name: str, overrides: dict[str, Any], **more: Any) -> Cell:
        fields: dict[str, Any] = {"process": "main", "importance": 80, "repeats": repeats} | more
        return Cell(
            name=f"ablation/{model}/{name}", part="ablation", model=model, overrides=base | overrides, steps=steps,
            **fields,
        )  # fmt: skip

    for row in table:
        key = (tuple(sorted(row.off.items())), row.batch)
        if key not in bases:
            parts = ["plain", *(f"{name} {value}" for name, value in row.off.items())]
            parts += [f"batch {row.batch}"] if row.batch > 1 else []
            most = max(other.importance for other in table if other.off == row.off and other.batch == row.batch)
            more = row.more if row.of_partner else {}
            off = cell(", ".join(parts), row.off, batch=row.batch, importance=most + 1, **more)
            bases[key] = off.name
            yield off
        beside = base | row.off if in_turn else None
        on = cell(
            row.name, row.off | row.on, beside=beside, batch=row.batch, importance=row.importance, flips=row.field,
            off=bases[key], needs=bases[key] if beside is None else None, note=row.note,
            process=f"alone/{model}/{row.name}" if row.alone else "main",
            **row.more,
        )  # fmt: skip
        if row.alone:
            later.append(on)
        else:
            yield on
    plainly = bases[((), 1)]
    yield cell("plain, again", {}, importance=73, off=plainly, needs=plainly, beside=base if in_turn else None)
    yield from later


def presets(model: str, steps: Sequence[int], repeats: int, *, own_batch: bool = True) -> Iterator[Cell]:
    """`notes`, `auto` and `fast` side by side: batch 1 at each number of steps, then each with its own batch."""
    order = sorted(steps, key=lambda count: (count != 30, count))
    for preset, weight in (("auto", 100), ("notes", 98), ("fast", 90)):
        process = "fast" if preset == "fast" else "main"
        for place, count in enumerate(order):
            yield Cell(
                name=f"presets/{model}/{preset}/{count} steps", part="presets", process=process, model=model,
                preset=preset, steps=count, repeats=max(1, repeats - (place > 0)), note=7,
                importance=weight - 4 * place,
            )  # fmt: skip
        if own_batch:
            yield Cell(
                name=f"presets/{model}/{preset}/own batch", part="presets", process=process, model=model,
                preset=preset, steps=min(order), batch=None, repeats=1, note=8,
                importance=20 if preset == "fast" else weight - 48,
            )  # fmt: skip


def batches(model: str, sizes: Sequence[int], steps: int, repeats: int) -> Iterator[Cell]:
    """`auto` with batches of each of `sizes`; the large ones, which take long, with fewer repeats."""
    for size in sizes:
        yield Cell(
            name=f"batch/{model}/{size}", part="batch", process="main", model=model, steps=steps, batch=size,
            repeats=max(1, min(repeats, 8 // size)), note=8, importance=74 - size // 2,
        )  # fmt: skip


def cold(model: str, steps: int, times: int) -> Iterator[Cell]:
    """Cold starts in real fresh processes: weights made on the device, then weights read from a folder."""
    common: dict[str, Any] = {"part": "cold", "kind": "cold", "model": model, "steps": steps, "repeats": 1}
    for index in range(1, times + 1):
        yield Cell(
            name=f"cold/{model}/made {index}",
            process=f"cold/made/{index}",
            note=5,
            importance=80 if index == 1 else 50,
            **common,
        )
    yield Cell(name=f"cold/{model}/folder", part="cold", kind="folder", process="cold/build", model=model,
               importance=44)  # fmt: skip
    for index in range(1, times + 1):
        yield Cell(
            name=f"cold/{model}/read {index}", process=f"cold/read/{index}", note=6, importance=43 - index,
            from_folder=True, needs=f"cold/{model}/folder", **common,
        )  # fmt: skip


def tiers(model: str, steps: int) -> Iterator[Cell]:
    """`auto` and `notes` as the planner has them for each of the notes' cards, in a process capped at its memory.

    Few steps: it is the memory that is asked about.
    """
    for place, tier in enumerate(TIERS):
        for preset in ("auto", "notes"):
            slow = preset == "notes" and tier == TIERS[0]  # offloaded: random weights would be made in host memory
            yield Cell(
                name=f"tiers/{model}/{tier} GB/{preset}", part="tiers", model=model,
                process=f"tiers/{tier}/notes" if slow else f"tiers/{tier}",
                preset=preset, steps=steps, batch=None, repeats=1, cap=tier * GB, note=10,
                importance=26 if slow else 78 - place - 8 * (preset == "notes"), from_folder=slow,
            )  # fmt: skip
