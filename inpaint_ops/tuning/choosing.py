"""Choose a Tuning for a device and a job: `choose(device, …) -> Choice`.

What wins, strongest first: what the device cannot do; an override of the field (command line, DAG parameter,
environment); `USE_XFORMERS`; the preset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from inpaint_ops.device import GB, Tier, tier
from inpaint_ops.errors import ConfigError, did_you_mean
from inpaint_ops.records import DeviceInfo
from inpaint_ops.tuning.fields import PRESETS, AttentionProbe, Tuning, shown
from inpaint_ops.tuning.peaks import Workload, count_peak, estimate_peak
from inpaint_ops.wording import counted

KERNEL_GAIN = 0.05
"""A kernel or a layout is named only where it beats PyTorch's own choice by this share: less is noise."""

MARGIN = 0.05
"""Share of the free memory that the planner leaves alone: by so much a counted peak may be off."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A Tuning, why, and what it is thought to need.

    `reasons` has an entry for every field of Tuning. `asked` holds fields whose value was asked for (by the preset or
    by hand) and could not be granted on this device, so that the ledger can show both. `counted_peak` is in bytes
    (`peaks`); `estimated_peak` is the same with an allowance for workspaces and fragmentation.
    """

    tuning: Tuning
    reasons: dict[str, str]
    preset: str = "auto"
    asked: dict[str, str] = field(default_factory=dict)
    counted_peak: int = 0
    estimated_peak: int = 0


COMPILE_PAYS_FROM = 200
"""Rows. Regional compilation takes about a minute and saves some 10 % of 2-4 s per image (facts): an estimate."""

_BATCH_CAP = {Tier.CPU: 4, Tier.GB10: 2, Tier.GB24: 4, Tier.GB40: 8, Tier.GB80: 8}
"""The planner stops here even where more fits: a crash loses a batch, and a step of batch 8 keeps any card busy."""
_NOTES_BATCH = {Tier.CPU: 1, Tier.GB10: 1, Tier.GB24: 1, Tier.GB40: 2, Tier.GB80: 4}


def memory_budget(device: DeviceInfo) -> int:
    """Bytes of `device` that a plan may use: its free memory (its total, where unknown) less the margin."""
    return int((device.free_memory or device.total_memory) * (1 - MARGIN))


def choose(
    device: DeviceInfo,
    *,
    preset: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    workload: Workload | None = None,
    expected_rows: int = 1,
    use_xformers: bool | None = None,
    probe: AttentionProbe | None = None,
) -> Choice:
    """Choose a Tuning for `device` and the job, with a reason for each field. Pure.

    `overrides` maps field names to values (texts such as "true" and "4" are understood; None means not set).
    `workload` is what the model and the job bring (None: SDXL at 1024), `expected_rows` a count; `probe` is what is
    known of the card's attention kernels and layouts. Raises ConfigError that names an unknown preset, an unknown
    field, or a field and its unusable value.
    """
    by_hand = check_choices(preset, overrides or {})
    work = workload or Workload()
    plan = _Plan(device, preset, work, expected_rows, by_hand, probe)
    {"auto": _auto, "notes": _notes, "low-memory": _low_memory, "fast": _fast}[preset](plan)
    if use_xformers is not None:
        own = plan.values["attention"]
        value = "xformers" if use_xformers else own if own.startswith("sdpa") else "sdpa"
        plan.put("attention", value, f"USE_XFORMERS={str(use_xformers).lower()}")
    for name, value in by_hand.items():
        plan.put(name, value, "set by hand")
    if by_hand.get("attention_slicing") and "attention" not in by_hand and use_xformers is None:
        plan.put("attention", "sliced", "attention_slicing was set by hand, and other processors would replace it")
    if plan.values["attention"] == "sliced" and "attention_slicing" not in by_hand:
        plan.put("attention_slicing", True, "attention is sliced")
    _limits(plan)
    _tile(plan)
    if device.kind == "cuda":
        _fit(plan)
    elif "batch_size" not in by_hand:
        _cpu_batch(plan)
    tuning = plan.tuning()
    return Choice(tuning, plan.reasons, preset, plan.asked, count_peak(tuning, work), estimate_peak(tuning, work))


def leaner(tuning: Tuning, native_size: int) -> Tuning | None:
    """`tuning` with what `low-memory` switches on: for a row that does not fit by itself. None where it has all of it.

    Model offload does not go with compiled modules, so there only the VAE gets leaner.
    """
    tile = low_memory_tile(native_size)
    offload = "model" if tuning.offload == "none" and tuning.compile == "off" else tuning.offload
    lean = tuning.model_copy(
        update={
            "vae_tiling": True, "vae_slicing": True, "batch_size": 1, "offload": offload,
            "vae_tile_size": min(tile, tuning.vae_tile_size or tile),
        }
    )  # fmt: skip
    return lean if lean != tuning.model_copy(update={"batch_size": 1}) else None


def low_memory_tile(native_size: int) -> int:
    """A tile's side in pixels that makes tiling trigger at the native size: half of it."""
    return max(16, native_size // 2 // 8 * 8)


class _Plan:
    """Values and reasons, while they are being chosen."""

    def __init__(
        self,
        device: DeviceInfo,
        preset: str,
        workload: Workload,
        expected_rows: int,
        by_hand: Mapping[str, Any],
        probe: AttentionProbe | None,
    ) -> None:
        self.device, self.preset, self.workload, self.rows = device, preset, workload, expected_rows
        self.tier = tier(device)
        self.by_hand = by_hand
        self.probe = probe
        self.asked: dict[str, str] = {}
        self.values: dict[str, Any] = {name: info.default for name, info in Tuning.model_fields.items()}
        self.reasons: dict[str, str] = dict.fromkeys(Tuning.model_fields, f"{preset}: left as it is")

    def put(self, name: str, value: Any, reason: str) -> None:
        self.values[name] = value
        self.reasons[name] = reason

    def refuse(self, name: str, value: Any, reason: str) -> None:
        """Take back what was asked for, for a reason that no setting overrules."""
        if self.values[name] != value:
            self.asked[name] = shown(self.values[name])
            self.put(name, value, f"{shown(self.values[name])} was asked for: {reason}")

    def tuning(self) -> Tuning:
        return Tuning(**self.values)


def check_choices(preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides as values of their fields, None left out. Raises ConfigError that names what cannot be used.

    A plan asks before any device is touched: a typo fails before a GPU is used.
    """
    if preset not in PRESETS:
        raise ConfigError(
            f"there is no tuning {preset!r}{did_you_mean(preset, PRESETS)}; there are {', '.join(PRESETS)}"
        )
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in given:
        if name not in Tuning.model_fields:
            near = did_you_mean(name, Tuning.model_fields)
            raise ConfigError(f"there is no tuning field {name!r}{near}; there are {', '.join(Tuning.model_fields)}")
    try:
        checked = Tuning(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"tuning field {first['loc'][0]}: {first['msg']} (it is {first['input']!r})") from None
    return {name: getattr(checked, name) for name in given}


def _auto(plan: _Plan) -> None:
    put = plan.put
    cuda = plan.device.kind == "cuda"
    if cuda:
        put("dtype", "float16", "16 bits halve memory and feed the tensor cores; the weights come in float16")
        put("channels_last", *_layout(plan))
        put("offload", "none", "the weights fit")
    else:
        put("dtype", "float32", "a CPU computes in float32")
        put("channels_last", False, "not measured to help on a CPU in float32")
        put("offload", "none", "a CPU has no device to offload from")
    put("attention", *_kernel(plan))
    put("attention_slicing", False, "note 3 has it on; with SDPA it raises the peak (0.52 against 0.33 GB) and slows")
    put("vae_tiling", False, "the decode fits whole; tiles would redo 1.56 times its area at 1024")
    put("vae_tile_size", None, "the VAE's own")
    put("vae_slicing", True, "a batch decodes one image at a time: the decode, not the UNet, bounds the batch")
    put("fuse_qkv", False, "gains under 1 % (A100: 2.54 to 2.52 s); `fast` has it")
    put("compile", "off", "off unless asked for: each fresh process would pay for it")
    put("release_text_encoders", True, "each prompt is encoded once; then 1.64 GB are free")


def _kernel(plan: _Plan) -> tuple[str, str]:
    """The attention that was measured to be fastest on this card, and the figures; PyTorch's own choice without."""
    seconds = plan.probe.seconds if plan.probe and plan.device.kind == "cuda" else {}
    if plan.probe is None or "sdpa" not in seconds:
        return "sdpa", "PyTorch's own kernels: today's xFormers calls the same ones, so parity is expected"
    best = min(seconds, key=lambda name: seconds[name])
    figures = f"measured on this card: {plan.probe.in_words()}"
    if seconds[best] > (1 - KERNEL_GAIN) * seconds["sdpa"]:
        return "sdpa", f"no kernel beats PyTorch's own choice by {KERNEL_GAIN:.0%}; {figures}"
    return best, figures


def _layout(plan: _Plan) -> tuple[bool, str]:
    """Whether kernels are kept in NHWC order: only where this card was measured to be faster with it."""
    layouts = plan.probe.layouts if plan.probe else {}
    if "channels_last" not in layouts or "contiguous" not in layouts:
        return False, "not measured on this card: CUDA's group norm is NCHW only, so that most layers copy their input"
    figures = ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in layouts.items())
    gain = 1 - layouts["channels_last"] / layouts["contiguous"]
    verdict = "faster" if gain >= KERNEL_GAIN else f"not faster by {KERNEL_GAIN:.0%}"
    return gain >= KERNEL_GAIN, f"measured on this card to be {verdict}: {figures}"


def _fast(plan: _Plan) -> None:
    _auto(plan)
    plan.put("fuse_qkv", True, "fewer, larger matrix products (A100: 2.54 to 2.52 s)")
    if plan.rows >= COMPILE_PAYS_FROM:
        plan.put("compile", "regional", f"{plan.rows} rows repay compiling the repeated blocks (estimated)")
    else:
        few = counted(plan.rows, "row")
        plan.put("compile", "off", f"{few} would not repay compiling; from {COMPILE_PAYS_FROM} (estimated)")


def _notes(plan: _Plan) -> None:
    put = plan.put
    put("dtype", "float16", "the notes: half precision")
    put("attention", "xformers", "the notes: xFormers on")
    put("attention_slicing", True, "the notes: on by default; called first, because the last call wins")
    put("vae_tiling", True, "the notes: VAE tiling on")
    put("batch_size", _NOTES_BATCH[plan.tier], f"the notes' table for {plan.tier.value}")
    if plan.tier is Tier.GB10:
        put("offload", "model", "the notes' table for 10 GB: CPU offload")
    for name in ("vae_slicing", "channels_last", "fuse_qkv", "compile", "offload", "release_text_encoders"):
        if plan.reasons[name].endswith("left as it is"):
            plan.reasons[name] = "the notes do not switch it on"


def _low_memory(plan: _Plan) -> None:
    _auto(plan)
    plan.put(
        "vae_tiling", True, "the decode is the peak: 0.41 against 1.61 GB (counted; 1024, float16, 512-pixel tiles)"
    )
    plan.put("batch_size", 1, "low-memory: one at a time")
    if plan.device.kind == "cuda":
        plan.put("offload", "model", "only the part in use is on the card; costs a copy of each part per batch")


def _limits(plan: _Plan) -> None:
    """What the device cannot do, whatever is asked."""
    if plan.device.kind == "cpu":
        plan.refuse("dtype", "float32", "a CPU computes in float32")
        if plan.values["attention"] == "xformers":
            plan.refuse("attention", "sdpa", "xFormers' attention needs a CUDA GPU; SDPA serves on a CPU")
        plan.refuse("offload", "none", "there is no device to offload from")
    if plan.probe and (why_not := plan.probe.why_not.get(plan.values["attention"])):
        plan.refuse("attention", "sdpa", f"it does not work on this card: {why_not}")
    if plan.values["fuse_qkv"] and plan.values["attention"] in ("xformers", "sliced"):
        plan.refuse("fuse_qkv", False, f"there is no fused form of {plan.values['attention']} attention")
    if plan.values["compile"] != "off" and plan.values["offload"] != "none":
        plan.refuse("compile", "off", f"not together with offload {plan.values['offload']}: its hooks break the graph")


def _tile(plan: _Plan) -> None:
    """Give tiles a size wherever they are on: the VAE's own is 1024 pixels in SDXL's base, which then tiles nothing."""
    if plan.values["vae_tiling"] and plan.values["vae_tile_size"] is None:
        size = low_memory_tile(plan.workload.native_size)
        plan.put("vae_tile_size", size, "half of the native size, so that tiling triggers on every SDXL VAE")


def _cpu_batch(plan: _Plan) -> None:
    if plan.preset in ("notes", "low-memory"):
        return
    if plan.workload.native_size > 128:
        plan.put("batch_size", 1, "a CPU is busy with one image of this size")
    else:
        batch = _largest(min(_BATCH_CAP[Tier.CPU], plan.rows), lambda _: True)
        plan.put("batch_size", batch, "at tiny sizes the overhead of a step dominates; a batch shares it")


def _fit(plan: _Plan) -> None:
    """Give up speed, step by step, until the estimate is below the budget; then fill the rest with the batch.

    The preset `notes` is left as the notes have it, and a field set by hand as it was set.
    """
    batch_set = "batch_size" in plan.by_hand or plan.preset in ("notes", "low-memory")
    batch = plan.values["batch_size"] if batch_set else 1
    budget = memory_budget(plan.device) / GB

    def need() -> float:
        return estimate_peak(plan.tuning(), plan.workload, batch) / GB

    for name, value in () if plan.preset == "notes" else _RELIEF:
        if need() <= budget:
            break
        if name in plan.by_hand or value in _as_lean(name, plan.values[name]):
            continue
        plan.put(name, value, f"needed: estimated {need():.1f} GB without it, {budget:.1f} GB to use")
        _tile(plan)
        if name == "offload" and plan.values["compile"] != "off":
            plan.refuse("compile", "off", f"not together with offload {value}, which the memory demands")
    if need() > budget:
        hint = "use a larger card" if plan.preset == "low-memory" else "try the preset low-memory"
        words = f"estimated {need():.1f} GB, {budget:.1f} GB to use: it may not fit; {hint}"
        plan.put("batch_size", batch, words)
    elif not batch_set:
        cap = min(_BATCH_CAP[plan.tier], plan.rows)
        batch = _largest(cap, lambda size: estimate_peak(plan.tuning(), plan.workload, size) / GB <= budget)
        words = f"estimated {need():.1f} of {budget:.1f} GB, at most {cap} for this card and job"
        plan.put("batch_size", batch, words)


_OFFLOADS = ("none", "model", "group", "sequential")
_RELIEF: tuple[tuple[str, Any], ...] = (
    ("vae_slicing", True),
    ("vae_tiling", True),
    ("offload", "model"),
    ("offload", "group"),
    ("offload", "sequential"),
)
"""What saves memory, from the least to the most expensive."""


def _as_lean(name: str, value: Any) -> tuple[Any, ...]:
    """The values of a field that save no more memory than `value` does."""
    return _OFFLOADS[: _OFFLOADS.index(value) + 1] if name == "offload" else (value,)


def _largest(cap: int, fits: Callable[[int], bool]) -> int:
    """The largest power of two up to `cap` that fits; 1 where none does."""
    best = size = 1
    while size <= cap:
        if fits(size):
            best = size
        size *= 2
    return best
