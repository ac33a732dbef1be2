"""The messages between the supervisor and its worker: JSON lines over two pipes, paths and parameters only.

The worker never sees a URI of the store, a credential or a run's name. Commands go to its standard input; events come
back on a pipe of their own, so that nothing that a library prints is mistaken for an event.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, TypeAdapter, field_validator

from inpaint_ops.config import (
    Blend,
    Chroma,
    CudaWait,
    Fill,
    Grain,
    ImageFormat,
    MaskChannel,
    Match,
    PromptSyntax,
    Provenance,
    Scheduler,
    Sharpen,
    SideProduct,
)
from inpaint_ops.errors import one_line
from inpaint_ops.records import (
    Amount,
    Batch,
    ColdStart,
    DeviceInfo,
    ErrorInfo,
    LedgerEntry,
    LoraFile,
    Measured,
    Memory,
    Model,
    Painted,
    WorkerSetup,
)

MAX_PROMPTS = 1024
"""Distinct texts that a job announces, at most. With more the worker keeps its text encoders."""


Text = str | tuple[str, str]
"""What is encoded: one text for both of SDXL's text encoders, or one for each."""


def text_of(first: str | None, second: str | None) -> Text | None:
    """A row's text, of its field and of the one for the second encoder; None where it has neither."""
    if second is None or second == first:
        return first
    return first or "", second


def guided_steps(steps: int, cutoff: float) -> int:
    """Of `steps` that run, the first ones that have guidance where it ends after this share of them: at least one.

    A share of a step counts as a step.
    """
    return math.ceil(round(steps * cutoff, 6))  # 10 x 0.3 is 3, whatever floats make of it


PROFILE = "profile.json.gz"
"""The file of its folder in which a worker that is profiled leaves what it found."""

_VARIANT = 10**10
"""Beyond the number of any row."""


def unit_number(row: int, variant: int | None) -> int:
    """The number by which a worker knows what it paints: the row's own, and for its further variants a higher one."""
    return row + (variant or 0) * _VARIANT


def unit_name(number: int) -> str:
    """How people know it: `7`, or `7.2` for a further variant of row 7."""
    variant, row = divmod(number, _VARIANT)
    return f"{row}.{variant}" if variant else str(row)


class Job(Model):
    """The first command: what to load, and how."""

    kind: Literal["job"] = "job"
    model: str = Field(
        description="A hub id, a folder, a .safetensors file, demo, or tiny-random, mid-random, sdxl-random."
    )
    revision: str | None = None
    vae: str | None = Field(default=None, description="A folder or a file: takes the place of the model's own VAE.")
    tokenizer: str | None = Field(default=None, description="A folder, for a model in one file.")
    fill_model: str | None = Field(default=None, description="The ONNX file of fill `lama`, where a row needs it.")
    clip_model: str | None = Field(default=None, description="The folder of the model that scores images by CLIP.")
    lpips_model: str | None = Field(default=None, description="The ONNX file of the network that measures LPIPS.")
    loras: tuple[LoraFile, ...] = ()
    fuse_loras: dict[str, float] | None = Field(
        default=None, description="What every row that comes is painted with, by name; None: rows differ."
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tuning: str = Field(default="auto", description="A preset.")
    tuning_overrides: dict[str, Any] = Field(default_factory=dict, description="Fields of Tuning set by hand.")
    use_xformers: bool | None = Field(default=None, description="Forced on or off; None: chosen.")
    scheduler: Scheduler = "model"
    prompt_syntax: PromptSyntax = "plain"
    expected_rows: int = Field(default=1, ge=1, description="Rows that may come: lets the planner weigh warm-up.")
    prompts: tuple[Text, ...] | None = Field(
        default=None,
        max_length=MAX_PROMPTS,
        description="Every distinct prompt and negative prompt that rows will bring; None: not known, or too many.",
    )
    max_pixels: int = 100_000_000
    mask_resize: Literal["off", "nearest"] = "off"
    alpha: Literal["fill", "keep"] = "fill"
    png: Literal["fast", "small"] = "fast"
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    jpeg_chroma: Chroma = "444"
    jpeg_progressive: bool = False
    avif_quality: int = Field(default=90, ge=1, le=100)
    avif_chroma: Chroma = "444"
    thumbnails: bool = False
    metadata: Literal["safe", "keep", "strip"] = "safe"
    provenance: Provenance = "full"
    frames: Literal["one", "first"] = "one"
    profile: bool = Field(default=False, description="Leave PROFILE in `scratch`.")
    unchanged_threshold: float = Field(default=0.0, description="8-bit levels; 0: no row fails as unchanged.")
    scratch: str = Field(description="A folder that the worker alone may write to.")
    cuda_wait: CudaWait = "sleep"
    leases: str = Field(
        default="", description="The folder of leases that users share; empty: the worker's user's own."
    )
    lease_timeout: float = 900


class Item(Model):
    """One row to paint. `image`, `mask` and `output` are local paths; the output's folder exists."""

    kind: Literal["item"] = "item"
    row: int = Field(description="See `unit_number`.")
    id: str
    image: str
    mask: str
    output: str
    prompt: str
    negative_prompt: str | None = None
    prompt_2: str | None = Field(default=None, description="For the second text encoder; None: `prompt`.")
    negative_prompt_2: str | None = None
    seed: int
    steps: int
    guidance_scale: float
    strength: float
    guidance_cutoff: float = Field(default=1.0, gt=0, le=1, description="See `guided_steps`; 1: guidance to the end.")
    loras: dict[str, float] = Field(default_factory=dict)
    mask_channel: MaskChannel = "auto"
    mask_threshold: int | None = None
    mask_invert: bool = False
    mask_dilate: int = 0
    mask_blur: float = 0.0
    crop: Literal["none", "auto", "regions", "tiles"] | int = "none"
    blend: Blend = "hard"
    match: Match = "none"
    grain: Grain = "none"
    sharpen: Sharpen = "none"
    fill: Fill = "original"
    side_products: tuple[SideProduct, ...] = ()
    format: ImageFormat = "png"
    as_source: bool = Field(default=False, description="Write a JPEG as its source is written, as far as that goes.")


class Flush(Model):
    """Paint the items that were sent: no further one comes before one of them is finished."""

    kind: Literal["flush"] = "flush"


class End(Model):
    """No further items: finish, send Bye, and exit."""

    kind: Literal["end"] = "end"


Command = Annotated[Job | Item | Flush | End, Field(discriminator="kind")]


Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: _plausible(moment))]
"""A time of day in a worker's event: with its zone, and of this century."""
RowNumber = Annotated[int, Field(ge=1, le=2**53)]
Pixels = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Phase(Model):
    """A part of the cold start begins (imports, lease, load, compile, ...); `detail` is for people."""

    kind: Literal["phase"] = "phase"
    name: str
    detail: str = ""


class Ready(WorkerSetup):
    """The model is loaded and tuned."""

    kind: Literal["ready"] = "ready"
    native_size: Pixels
    batch_size: int = Field(ge=1, le=4096)

    @field_validator("device")
    @classmethod
    def _has_a_plain_name(cls, device: DeviceInfo) -> DeviceInfo:
        if device.uuid.startswith("-"):
            raise ValueError("a device's UUID is handed to the driver's tool: it must not look like an option")
        return device


class Begun(Model):
    """Work on these rows begins: should the process die now, they are the suspects."""

    kind: Literal["begun"] = "begun"
    rows: tuple[RowNumber, ...] = Field(min_length=1)
    stage: Literal["decode", "paint", "encode"]


class Step(Model):
    """A denoising step of the batch is done: the progress that the supervisor waits for."""

    kind: Literal["step"] = "step"
    step: int = Field(ge=0, le=10_000)
    steps: int = Field(ge=0, le=10_000)


class Done(Painted):
    """A row is painted and lies at `output`.

    What it states about the file is compared with the file, and never used in its place.
    """

    kind: Literal["done"] = "done"
    row: RowNumber
    output: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: Count
    width: Pixels
    height: Pixels
    format: str
    media_type: str
    extension: str = Field(description="With its dot.")
    steps: int = Field(ge=0, le=10_000)
    working_size: tuple[Pixels, Pixels]
    conversions: tuple[str, ...] = Field(default=(), max_length=100)
    batch: Batch
    memory: Memory
    thumbnail_sizes: tuple[Pixels, ...] = Field(default=(), max_length=8, description="Those that lie beside `output`.")
    side_product_kinds: tuple[SideProduct, ...] = Field(
        default=(), max_length=8, description="Those that lie beside `output`."
    )
    started_at: Moment
    finished_at: Moment


class Failed(Measured):
    """A row cannot be painted; the others go on."""

    kind: Literal["failed"] = "failed"
    row: RowNumber
    error: ErrorInfo
    started_at: Moment
    finished_at: Moment


class Warn(Model):
    """A warning for the run's report."""

    kind: Literal["warn"] = "warn"
    message: str
    fault: Literal["out_of_memory"] | None = Field(
        default=None, description="Set where it is a fault that the worker recovered from."
    )


class Bye(Model):
    """The last event of a worker that ends by itself. `ledger` now holds what was measured."""

    kind: Literal["bye"] = "bye"
    ledger: tuple[LedgerEntry, ...]
    cold_start: ColdStart
    busy: Amount = Field(description="Seconds spent painting batches.")
    painted: Count
    peak_memory: Memory | None


class Fatal(Model):
    """The worker cannot work at all: no model, no device."""

    kind: Literal["fatal"] = "fatal"
    error: ErrorInfo


Event = Annotated[Phase | Ready | Begun | Step | Done | Failed | Warn | Bye | Fatal, Field(discriminator="kind")]

MAX_ITEMS, MAX_DEPTH, MAX_NUMBER = 1000, 8, 1e18
"""Of an event: values of one list or object, levels of them, and the size of a number."""

MAY_BE_NEGATIVE = frozenset({"measured", "tuning", "shift", "clip", "weight"})
"""Parts of an event that hold figures below 0 too, by the types of their fields; of all others none is."""


def _plausible(moment: datetime) -> datetime:
    if not datetime(2000, 1, 1, tzinfo=UTC) <= moment < datetime(2200, 1, 1, tzinfo=UTC):
        raise ValueError("not a time of this century")
    return moment


def bounded(value: Any, *, depth: int = MAX_DEPTH, signed: bool = False) -> Any:
    """An event as it was parsed, with every text on one line, so that it cannot forge lines of a log.

    Raises ValueError for what no honest worker sends: too many values, too deep, numbers that are negative, not finite
    or beyond MAX_NUMBER.
    """
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        if abs(value) > MAX_NUMBER or not math.isfinite(value) or (value < 0 and not signed):
            raise ValueError("a number out of bounds")
        return value
    if depth == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if len(value) > MAX_ITEMS:
        raise ValueError(f"more than {MAX_ITEMS:,} values")
    if isinstance(value, dict):
        return {
            one_line(name): bounded(item, depth=depth - 1, signed=signed or name in MAY_BE_NEGATIVE)
            for name, item in value.items()
        }
    return [bounded(item, depth=depth - 1, signed=signed) for item in value]


_COMMAND: TypeAdapter[Command] = TypeAdapter(Command)
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, BeforeValidator(bounded)])


def parse_command(line: str | bytes) -> Command:
    """Read one command line. Raises pydantic.ValidationError."""
    return _COMMAND.validate_json(line)


def parse_event(line: str | bytes) -> Event:
    """Read one event line, whoever wrote it: numbers finite and in bounds, texts of one line. Raises
    pydantic.ValidationError.
    """
    return _EVENT.validate_json(line)


def dump(message: Model) -> str:
    """One line, with its newline."""
    return message.model_dump_json() + "\n"
