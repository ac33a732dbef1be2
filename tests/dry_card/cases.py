"""The cases that are painted on the dry card: presets, batches, layouts, offloads, dtypes, VAEs, and lack of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CARD = int(80e9)
"""Bytes of the dry card."""

Phase = Literal["load", "prompts", "encode", "denoise", "decode", "return"]
"""`return` is when weights come back to the card after a row that was painted with less memory."""


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration of `sdxl-random`, painted once at 1024x1024 with two steps and guidance.

    `overrides` are fields of Tuning; `rows` is the size of the job that the planner is told; `upcast` gives the VAE
    `force_upcast`; `from_folder` loads a folder of safetensors, as a fetched model is, `from_file` one file;
    `loras` paints with one of rank 64 over all attention, merged or beside the weights. `limit` is what the card may
    hold, in bytes; `fail_in` and `failures` let the first so many allocations of a phase fail. `batch_after` is what
    batch size the engine must have come to, `relieved` whether a row must have been painted with less memory, `error` a
    part of the text that a row, or the load, must fail with.
    `cutoff` below 1 ends guidance after that share of the steps, of which there is one more then.
    `batches` more than one paint again, without limit. `not_in_effect` names the ledger's entries that cannot be in
    effect here, as the preset itself says.
    """

    name: str
    preset: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 8
    upcast: bool = False
    from_folder: bool = False
    from_file: bool = False
    loras: Literal["", "merged", "switched"] = ""
    limit: float | None = None
    fail_in: Phase | None = None
    failures: int = 1
    batches: int = 1
    not_in_effect: tuple[str, ...] = ()
    batch_after: int | None = None
    relieved: bool = False
    error: str = ""
    short: bool = False
    cutoff: float = 1.0

    @property
    def offloads(self) -> str:
        """The offload that the plan is to have."""
        return "model" if self.preset == "low-memory" else str(self.overrides.get("offload", "none"))

    @property
    def lacks_memory(self) -> bool:
        """Whether the case is about a lack of memory; its peaks are then no measure of a plan's."""
        return self.limit is not None or self.fail_in is not None


def _set(name: str, *, preset: str = "auto", rows: int = 8, upcast: bool = False, from_folder: bool = False,
         short: bool = False, batches: int = 1, **overrides: Any) -> Case:  # fmt: skip
    plan = {"batch_size": 1} | overrides
    return Case(name, preset, plan, rows, upcast, from_folder, batches=batches, short=short)


CASES: tuple[Case, ...] = (
    _set("auto", short=True),
    *(_set(f"auto, batch {size}", batch_size=size) for size in (2, 4, 8)),
    *(_set(f"no slicing, batch {size}", batch_size=size, vae_slicing=False) for size in (2, 4, 8)),
    _set("tiles, no slicing, batch 4", batch_size=4, vae_slicing=False, vae_tiling=True, vae_tile_size=512),
    _set("tiles, batch 8", batch_size=8, vae_tiling=True, vae_tile_size=512),
    _set("small tiles", vae_tiling=True, vae_tile_size=256),
    _set("contiguous", channels_last=False),
    _set("channels_last", channels_last=True),
    _set("channels_last, batch 4", channels_last=True, batch_size=4),
    _set("text encoders kept", release_text_encoders=False),
    _set("fast", preset="fast", rows=1, short=True),
    _set("fast, batch 8", preset="fast", rows=1, batch_size=8),
    Case("notes", "notes", not_in_effect=("attention_slicing",)),
    Case("notes, batch 1", "notes", {"batch_size": 1}, not_in_effect=("attention_slicing",)),
    Case("low-memory", "low-memory"),
    _set("sliced attention", attention="sliced"),
    _set("sliced attention, batch 4", attention="sliced", batch_size=4),
    _set("xformers, batch 2", attention="xformers", batch_size=2),
    _set("float32", dtype="float32"),
    _set("float32, batch 2", dtype="float32", batch_size=2),
    _set("bfloat16, batch 2", dtype="bfloat16", batch_size=2),
    *(_set(f"offload {way}", offload=way, batches=2) for way in ("model", "group", "sequential")),
    *(_set(f"offload {way}, tiles, batch 4", offload=way, batch_size=4, vae_tiling=True, vae_tile_size=512)
      for way in ("model", "group", "sequential")),
    _set("force_upcast", upcast=True, batches=2),
    *(_set(f"force_upcast, batch {size}", upcast=True, batch_size=size) for size in (2, 4, 8)),
    _set("force_upcast, tiles, batch 4", upcast=True, batch_size=4, vae_tiling=True, vae_tile_size=512),
    _set("force_upcast, no slicing, batch 2", upcast=True, batch_size=2, vae_slicing=False),
    *(_set(f"force_upcast, {dtype}", upcast=True, dtype=dtype) for dtype in ("float32", "bfloat16")),
    _set("force_upcast, channels_last", upcast=True, channels_last=True),
    _set("force_upcast, fast", upcast=True, preset="fast", rows=1),
    Case("force_upcast, notes", "notes", upcast=True, not_in_effect=("attention_slicing",)),
    Case("force_upcast, low-memory", "low-memory", upcast=True),
    *(_set(f"force_upcast, offload {way}", upcast=True, offload=way, batches=2, short=way == "group")
      for way in ("model", "group", "sequential")),
    _set("offload model, text encoders kept", offload="model", release_text_encoders=False),
    _set("from a folder", from_folder=True, short=True),
    _set("from a folder, fast", from_folder=True, preset="fast", rows=1),
    _set("from a folder, float32", from_folder=True, dtype="float32"),
    _set("from a folder, bfloat16", from_folder=True, dtype="bfloat16"),
    *(_set(f"from a folder, force_upcast, offload {way}", from_folder=True, upcast=True, offload=way, batches=2)
      for way in ("none", "model", "group", "sequential")),
    Case("from a file", overrides={"batch_size": 1}, from_file=True, short=True),
    Case("from a file, offload model", overrides={"batch_size": 1, "offload": "model"}, from_file=True),
    Case("guidance cutoff, batch 2", overrides={"batch_size": 2}, cutoff=0.5, short=True),
    Case("LoRA merged", overrides={"batch_size": 1}, loras="merged", short=True),
    Case("LoRA switched", overrides={"batch_size": 1}, loras="switched", short=True),
    Case("LoRA switched, offload group", overrides={"batch_size": 1, "offload": "group"}, loras="switched", batches=2),
    Case("from a folder, no memory at load", from_folder=True, fail_in="load", error="does not fit dry card"),
    Case("from a folder, memory for 1 with tiles", "auto", {"batch_size": 1}, from_folder=True, limit=6.5e9,
         batch_after=1, relieved=True, batches=2),
    Case("no memory at load", fail_in="load", error="does not fit dry card", short=True),
    Case("no memory for prompts", fail_in="prompts", error="text encoders do not fit"),
    *(Case(f"no memory at {phase}, batch 4", "auto", {"batch_size": 4}, fail_in=phase, batch_after=2)
      for phase in ("encode", "denoise", "decode")),
    *(Case(f"no memory at {phase}, batch 1", "auto", {"batch_size": 1}, fail_in=phase, batch_after=1, relieved=True,
           batches=2)
      for phase in ("encode", "denoise", "decode")),
    Case("force_upcast, no memory at decode, batch 4", "auto", {"batch_size": 4}, upcast=True, fail_in="decode",
         batch_after=2),
    *(Case(f"force_upcast, no memory at {phase}, batch 1", "auto", {"batch_size": 1}, upcast=True, fail_in=phase,
           batch_after=1, relieved=True, batches=2)
      for phase in ("encode", "decode")),
    Case("memory for 4 of 8", "auto", {"batch_size": 8}, limit=7.2e9, batch_after=4, short=True),
    Case("memory for 1 with tiles", "auto", {"batch_size": 1}, limit=6.5e9, batch_after=1, relieved=True, batches=2),
    Case("no memory when the weights return", "auto", {"batch_size": 1}, limit=6.5e9, fail_in="return", batch_after=1,
         relieved=True, batches=2, not_in_effect=("offload",)),
    Case("offload group, memory for 1 with tiles", "auto", {"batch_size": 2, "offload": "group"}, limit=1.7e9,
         batch_after=1, relieved=True, batches=2),
    Case("memory for none", "auto", {"batch_size": 2}, limit=5.4e9, batch_after=1,
         error="does not fit the memory by itself"),
)  # fmt: skip


def named(names: list[str]) -> list[Case]:
    """The cases with these names; all of them where none is given. Raises KeyError for another name."""
    known = {case.name: case for case in CASES}
    return [known[name] for name in names] or list(CASES)
