"""The rows of a manifest: as their author wrote them, accepted, and rejected."""

from __future__ import annotations

import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import from_json, to_json, to_jsonable_python

from inpaint_ops.config import (
    Blend,
    Fill,
    Grain,
    ImageFormat,
    MaskChannel,
    Match,
    RowFormat,
    Sharpen,
    SideProduct,
    format_like,
    list_side_products,
)
from inpaint_ops.manifest.packed import PackedLines, PackedRows
from inpaint_ops.records import MAX_VARIANTS, ErrorInfo, read_row_loras

Quality = Literal["good", "high", "best"]
STEPS: dict[str, int] = {"good": 20, "high": 30, "best": 50}
"""Denoising steps by quality, from the optimisation notes."""

ERROR_FIELD, TEXT_FIELD = "_error", "_text"
IGNORED_FIELDS = frozenset({ERROR_FIELD, TEXT_FIELD})
"""Fields of a row that a reader of manifests ignores: `rejected.jsonl` has them."""

TEXTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
"""Fields that say what to paint and what not; a job may give them to rows that have none."""

MAX_SEED = 2**63 - 1
_ID = re.compile(r"\w[\w.+@=() -]{0,119}")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|(com|lpt)[\d¹²³])( *\..*)?")
"""Names of devices on Windows, with any ending."""
_ID_BYTES = 200
MAX_EXTRA_DEPTH = 32
"""Objects and lists inside each other in `extra`, at most: pydantic writes no more than 255, and JSON readers vary."""


class Row(BaseModel):
    """One row of a manifest, as its author wrote it.

    `image` and `mask` are keys relative to the manifest, or URIs under an allowed prefix.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image: str = Field(min_length=1, max_length=1024)
    mask: str = Field(min_length=1, max_length=1024)
    prompt: str
    id: str | None = Field(default=None, description="Names the output; default: the image's stem, made unique.")
    negative_prompt: str | None = None
    prompt_2: str | None = Field(default=None, description="For SDXL's second text encoder; None: `prompt`.")
    negative_prompt_2: str | None = None
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    quality: Quality | None = None
    steps: int | None = Field(default=None, ge=1, le=500)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)
    guidance_cutoff: float | None = Field(
        default=None, gt=0, le=1, description="The share of the steps after which guidance is off; 1: it never is."
    )
    strength: float | None = Field(default=None, gt=0, le=1)
    mask_channel: MaskChannel = "auto"
    mask_threshold: int | None = Field(
        default=None, ge=0, le=255, description="Levels from here on are painted wholly; 0: levels are weights."
    )
    mask_invert: bool = False
    mask_dilate: int = Field(default=0, ge=0, le=512, description="Pixels of the source.")
    mask_blur: float = Field(default=0, ge=0, le=256, description="Gaussian sigma, in pixels of the source.")
    crop: Literal["none", "auto", "regions", "tiles"] | int = "none"
    blend: Blend | None = Field(default=None, description="How the patch meets the source.")
    match: Match | None = Field(default=None, description="How its colour is brought nearer to a ring around the mask.")
    grain: Grain | None = Field(default=None, description="Whether its noise is brought up to the ring's.")
    sharpen: Sharpen | None = Field(default=None, description="Whether it is sharpened to the ring's detail.")
    fill: Fill | None = Field(default=None, description="What the masked area holds before it is encoded.")
    side_products: list[SideProduct] | None = Field(
        default=None, description="Files beside the image: some of patch, mask, preview, or none."
    )
    variants: int | None = Field(
        default=None, ge=1, le=MAX_VARIANTS, description="Images, each with a seed of its own; None: as the job has it."
    )
    format: RowFormat | None = Field(default=None, description="What its image is written as; None: as png.")
    loras: list[str] | None = Field(
        default=None, description="Which of the job's LoRAs, `NAME` or `NAME:WEIGHT`; None: as the job has them."
    )
    extra: dict[str, Any] = Field(default_factory=dict, description="Passed through to the record.")

    @field_validator("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
    @classmethod
    def _no_control_characters(cls, value: str | None) -> str | None:
        if value and _CONTROL.search(value):
            raise ValueError("holds control characters: remove them")
        return value

    @field_validator("id")
    @classmethod
    def _id_is_a_name(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = unicodedata.normalize("NFC", value)
        if not is_valid_id(value):
            raise ValueError(
                "must be 1 to 120 letters, digits, spaces or '._+@=()-', begin with a letter or digit, "
                "and be no reserved name"
            )
        return value

    @field_validator("loras", mode="before")
    @classmethod
    def _loras_are_names(cls, value: object) -> list[str] | None:
        return read_row_loras(value)

    @field_validator("side_products", mode="before")
    @classmethod
    def _side_products_are_listed(cls, value: object) -> list[SideProduct] | None:
        return None if value is None else list(list_side_products(value))

    @field_validator("extra")
    @classmethod
    def _extra_is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        """What a Parquet file holds beyond JSON (times, decimals) becomes text; what JSON cannot say is refused."""
        if _is_plain(value):
            return value  # as it is: a copy of a large one would be as large again
        try:
            plain: dict[str, Any] = to_jsonable_python(value, inf_nan_mode="constants")
            json.dumps(plain, allow_nan=False)
        except ValueError:
            raise ValueError("holds NaN, infinity or bytes, which JSON cannot say") from None
        return plain

    @field_validator("crop")
    @classmethod
    def _margin_is_sane(cls, value: str | int) -> str | int:
        if isinstance(value, int) and not 0 <= value <= 4096:
            raise ValueError("a margin is 0 to 4096 pixels")
        return value

    @model_validator(mode="after")
    def _quality_or_steps(self) -> Row:
        if self.quality is not None and self.steps is not None:
            raise ValueError("give quality or steps, not both")
        return self

    @model_validator(mode="after")
    def _one_edge(self) -> Row:
        if self.mask_blur and self.blend in ("hard", "poisson"):
            raise ValueError(
                f"mask_blur feathers the edge, and blend {self.blend} makes another: leave one of them out, or choose "
                "blend feather or auto"
            )
        return self


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold `value` as it stands. Raises ValueError if it is nested too deep."""
    plain, open_parts = True, [iter((value,))]
    while open_parts:
        for part in open_parts[-1]:
            if len(open_parts) > MAX_EXTRA_DEPTH:
                raise ValueError(f"is nested more than {MAX_EXTRA_DEPTH} deep")
            if isinstance(part, dict):
                plain = plain and all(type(key) is str for key in part)
                open_parts.append(iter(part.values()))
                break
            if isinstance(part, list):
                open_parts.append(iter(part))
                break
            plain = plain and (type(part) in _PLAIN or (type(part) is float and math.isfinite(part)))
        else:
            open_parts.pop()
    return plain


_PLAIN = {str, int, bool, type(None)}


def is_valid_id(text: str) -> bool:
    """Whether `text` can name an output object on every store: no slash, no markup, no reserved name, 200 bytes."""
    if not _ID.fullmatch(text) or ".." in text or text != text.strip(" .") or RESERVED.fullmatch(text):
        return False
    return len(text.encode()) <= _ID_BYTES


class AcceptedRow(Row):
    """A row with its line, its unique id and its full URIs: what a shard file holds."""

    row: int = Field(ge=1, le=2**31 - 1)
    id: str
    image: str
    mask: str

    @property
    def output_format(self) -> ImageFormat:
        """What its image is written as. With `source` the ending of the source's name decides, so that the names of
        all images are known when a run is planned.
        """
        return format_like(self.image.partition("?")[0]) if self.format == "source" else self.format or "png"

    def as_manifest_row(self) -> dict[str, Any]:
        """The row as a manifest would say it, with defaults left out: reading it back gives the same work."""
        return self.model_dump(mode="json", exclude={"row"}, exclude_defaults=True, exclude_none=True)


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be worked on, and why."""

    row: int
    id: str
    error: ErrorInfo
    prompt: str = ""
    """The beginning of it: what is bad may be large."""
    written: dict[str, Any] = field(default_factory=dict)
    """The row as its author wrote it, with whole URIs; bounded, see `rejecting.as_written`."""

    def as_manifest_row(self) -> dict[str, Any]:
        """The row as it was written, with its error in a field that a reader of manifests ignores."""
        return self.written | {ERROR_FIELD: self.error.message}


@dataclass(frozen=True, slots=True)
class ParsedManifest:
    """Every row of a manifest, accepted or rejected. Ids are unique over both lists."""

    accepted: Sequence[AcceptedRow]
    rejected: Sequence[RejectedRow]
    notes: tuple[str, ...] = ()
    """What reading changed or left out, a line each."""

    @classmethod
    def packed(
        cls, accepted: Iterable[AcceptedRow], rejected: Iterable[RejectedRow], notes: tuple[str, ...] = ()
    ) -> ParsedManifest:
        """The manifest of these rows, kept as compressed text."""
        lines, ids = PackedLines(), PackedLines()
        for row in accepted:
            lines.append(pack_row(row, row.row))
            ids.append(row.id.encode())
        bad_lines, bad_ids = PackedLines(), PackedLines()
        for bad in rejected:
            bad_lines.append(pack_rejected(bad))
            bad_ids.append(bad.id.encode())
        return cls(PackedRows(unpack_row, lines, ids), PackedRows(unpack_rejected, bad_lines, bad_ids), notes)

    @property
    def rows(self) -> int:
        """How many rows the manifest has."""
        return len(self.accepted) + len(self.rejected)


def pack_row(row: Row, number: int) -> bytes:
    """The row without its id, which may not be known yet."""
    values, given = vars(row), row.model_fields_set - {"id", "row"}
    fields = {name: value for name in given if (value := values[name]) != _DEFAULTS[name]}
    fields["row"] = number
    return to_json(fields)


def unpack_row(line: bytes, name: str) -> AcceptedRow:
    """An accepted row from what `pack_row` made, with its id."""
    return constructed(AcceptedRow, {**_DEFAULTS, "extra": {}, **from_json(line), "id": name})


M = TypeVar("M", bound=BaseModel)


def constructed(kind: type[M], values: dict[str, Any], given: set[str] | None = None) -> M:
    """What `kind.model_construct` makes of values that are all there and known to be good, in a tenth of the time.

    That looks for each field's default and aliases anew: of a million rows, a minute each time that they are gone
    through. `given` are the fields that were set by somebody; default: all.
    """
    made = kind.__new__(kind)
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", set(values) if given is None else given)
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


_set = object.__setattr__  # a loop over the four takes half as long again


def pack_rejected(row: RejectedRow) -> bytes:
    """A rejected row, but for its id, as JSON."""
    return _json_bytes({"row": row.row, "error": row.error.model_dump(), "prompt": row.prompt, "written": row.written})


def unpack_rejected(line: bytes, name: str) -> RejectedRow:
    """A rejected row from what `pack_rejected` made, with its id."""
    kept = json.loads(line)
    return RejectedRow(kept["row"], name, ErrorInfo.model_validate(kept["error"]), kept["prompt"], kept["written"])


def _json_bytes(value: dict[str, Any]) -> bytes:
    return _DENSE.encode(value).encode()


_DENSE, _PLAIN_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")), json.JSONEncoder(ensure_ascii=False)


_DEFAULTS = {name: field.get_default(call_default_factory=True) for name, field in Row.model_fields.items()}


def to_jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as JSONL, one object per line, UTF-8."""
    out = io.BytesIO()
    write_jsonl(rows, out)
    return out.getvalue()


def write_jsonl(rows: Iterable[dict[str, Any]], out: IO[bytes]) -> None:
    """What `to_jsonl` gives, row by row into an open file."""
    for row in rows:
        out.write(_PLAIN_JSON.encode(row).encode() + b"\n")
