"""Settings: every environment variable that we read, its default and its meaning.

Storage credentials and endpoints are not here: they come by the AWS SDK's own variables and files, or from an Airflow
connection. `HF_HOME` is huggingface_hub's own name for the model cache.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from inpaint_ops.config.choices import (
    Blend,
    Chroma,
    CudaWait,
    Fill,
    Grain,
    Match,
    PromptSyntax,
    Provenance,
    RowFormat,
    Scheduler,
    Sharpen,
    SideProduct,
    list_side_products,
)
from inpaint_ops.errors import ConfigError

DEFAULT_MODEL = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
"""The model that the project exists for; its UNet takes 9 channels."""


class Settings(BaseSettings):
    """What the environment says. Each field is read from `INPAINT_<FIELD>`, unless it names another variable."""

    model_config = SettingsConfigDict(env_prefix="INPAINT_", frozen=True, extra="ignore")

    store: str = Field(default="", description="Where runs land: s3://bucket/prefix or a folder.")
    inbox: str = Field(default="", description="The prefix watched for manifests; `<store>/inbox/` when empty.")
    allowed_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Further prefixes that manifests may read from, separated by commas."
    )

    requester_pays: bool = Field(
        default=False, description="Pay for requests to buckets whose requester pays (`x-amz-request-payer`)."
    )
    etag_md5: Literal["auto", "off"] = Field(
        default="auto",
        description="An ETag of 32 hex digits checks what is read as its MD5, until it is found not to be one (auto); "
        "off: never.",
    )

    delivery_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Prefixes that the pages and the DAG `inpaint_deliver` may deliver to, separated by commas; empty: "
        "none.",
    )
    link_hours: float = Field(
        default=0.0,
        ge=0,
        le=168,
        description="The longest that a link of `inpaint-ops deliver --link` may live, in hours; 0: none is made. "
        "Whoever has such a link sees the images, without a password.",
    )

    model: str = Field(
        default=DEFAULT_MODEL,
        description="A hub id, a folder, a .safetensors file, demo, or tiny-random, mid-random, sdxl-random.",
    )
    model_revision: str | None = Field(default=None, description="The hub commit or tag to pin.")
    vae: str | None = Field(
        default=None, description="A VAE in place of the model's own: a diffusers folder or a .safetensors file."
    )
    loras: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="LoRAs of every job, with commas between: `PATH_OR_URI[:WEIGHT]` or `NAME=PATH_OR_URI[:WEIGHT]`.",
    )
    tokenizer: str | None = Field(
        default=None, description="For a model in one file: the folder of an SDXL model, or of its tokenizer."
    )
    tuning: str = Field(default="auto", description="A tuning preset: auto, notes, low-memory, fast.")
    batch_size: int | None = Field(default=None, ge=1, le=64, description="Rows painted together; empty: chosen.")
    use_xformers: bool | None = Field(
        default=None, validation_alias="USE_XFORMERS", description="Force xFormers attention on or off; empty: chosen."
    )
    tuning_set: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict,
        description="Fields of the tuning, over the preset: `vae_tiling=true,compile=off`, or a JSON object.",
    )
    scheduler: Scheduler = Field(
        default="model",
        description="model (its own), euler, euler_a, dpmpp_2m, dpmpp_2m_karras, ddim, heun, unipc; for few steps "
        "euler_trailing, ddim_trailing, lcm.",
    )
    prompt_syntax: PromptSyntax = Field(
        default="plain", description="plain: brackets are words; weighted: `(words)`, `(words:1.3)`, `[words]`."
    )
    blend: Blend = Field(
        default="hard", description="How a patch meets the source: hard (as the mask draws it), feather, poisson, auto."
    )
    match: Match = Field(
        default="none",
        description="A patch's colour is brought nearer to a ring around the mask: none, mean, histogram.",
    )
    grain: Grain = Field(
        default="none", description="A patch's noise is brought up to that of a ring around the mask: none, match."
    )
    sharpen: Sharpen = Field(
        default="none", description="A patch that is softer than a ring around the mask is sharpened: none, match."
    )
    format: RowFormat = Field(
        default="png",
        description="What images are written as, of rows that do not say it: png, webp, tiff, jpeg, avif, jxl, source.",
    )
    names: str | None = Field(
        default=None,
        description="What images are called, such as `{folder}/{stem}.{ext}`; empty: `{id}.{ext}`.",
    )
    fill: Fill = Field(
        default="original",
        description="What the masked area holds before it is painted over, which matters at a strength below 1: its "
        "own pixels (original), noise, the mean colour around it, or its surroundings carried on (telea; lama, by the "
        "network of `fill_model`).",
    )
    fill_model: str | None = Field(
        default=None, description="For fill lama: the LaMa network, an .onnx file on the machines that paint."
    )
    clip_model: str | None = Field(
        default=None,
        description="Each image's CLIP score is measured by it: the folder of a CLIP model on the machines that paint.",
    )
    lpips_model: str | None = Field(
        default=None,
        description="Each image's LPIPS distance is measured by it: an .onnx file on the machines that paint.",
    )
    side_products: Annotated[tuple[SideProduct, ...], NoDecode] = Field(
        default=(), description="Files beside each image, with commas between: patch, mask, preview."
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda)$", description="auto, cpu or cuda.")

    cuda_wait: CudaWait = Field(
        default="sleep",
        description="How a worker waits for its card: asleep, or by asking without a pause, which keeps a core busy.",
    )

    shard_rows: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Rows per shard, which is one task instance. "
        "Empty: enough that starting takes less than 5 % of a shard's time.",
    )
    max_shards: int = Field(default=1000, ge=1, le=1024, description="Shards in a run (Airflow maps at most 1024).")
    failure_threshold: float = Field(
        default=0.0, ge=0, le=1, description="The share of rows that may fail before the run fails its checks."
    )

    gpu_hour_price: float | None = Field(
        default=None, ge=0, le=1e6,
        description="What an hour of a card costs, in a currency of your own: forecasts and reports then say what a "
        "run costs, by its workers' lifetimes.",
    )  # fmt: skip

    max_rows: int = Field(default=200_000, ge=1, description="Rows in a manifest.")
    max_manifest_bytes: int = Field(default=256 * 2**20, ge=1, description="Bytes of a manifest.")
    max_prompt_chars: int = Field(default=4000, ge=1, description="Characters of a prompt.")
    max_image_bytes: int = Field(default=200 * 2**20, ge=1, description="Bytes of one image or mask file.")
    max_pixels: int = Field(default=100_000_000, ge=64, description="Pixels of one image or mask.")
    unchanged_threshold: float = Field(
        default=2.0,
        ge=0,
        le=255,
        description="A row whose masked part changed by less, in 8-bit levels, fails as unchanged; 0: none does.",
    )
    frames: Literal["one", "first"] = Field(
        default="one", description="Animations and files of several pages: refused (one), or their first is taken."
    )
    provenance: Provenance = Field(
        default="full",
        description="What images say of their making: full; mark: no prompt, seed or steps; off: nothing.",
    )
    c2pa_certificate: Path | None = Field(
        default=None,
        description="A PEM file: the certificate that images are signed with (C2PA), then those of its issuers.",
    )
    c2pa_key: Path | None = Field(default=None, description="A PEM file: that certificate's private key, unencrypted.")
    c2pa_timestamps: str = Field(
        default="", description="The URL of a timestamp authority (RFC 3161) that stamps signatures; empty: none."
    )
    metadata: Literal["safe", "keep", "strip"] = Field(
        default="safe",
        description="Of texts, EXIF and XMP: safe keeps all but location, serial numbers and thumbnails; keep; strip.",
    )
    alpha: Literal["fill", "keep"] = Field(
        default="fill", description="Where a transparent part is painted, alpha rises to the mask's weight, or is kept."
    )
    png: Literal["fast", "small"] = Field(
        default="fast", description="How hard PNGs are compressed: small takes fifteen times as long."
    )
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="Of JPEGs, on libjpeg's scale.")
    jpeg_chroma: Chroma = Field(
        default="444", description="Colour in JPEGs: full (444), half the width (422), half the width and height (420)."
    )
    jpeg_progressive: bool = Field(default=False, description="JPEGs that show coarse first: slower, a little smaller.")
    avif_quality: int = Field(default=90, ge=1, le=100, description="Of AVIFs, on libavif's scale.")
    avif_chroma: Chroma = Field(
        default="444", description="Colour in AVIFs: full (444), half the width (422), half the width and height (420)."
    )
    thumbnails: Literal["on", "off"] = Field(
        default="on", description="Small WebP pictures of each result, for the pages, written beside it while painting."
    )
    mask_resize: Literal["off", "nearest"] = Field(
        default="off", description="A mask of another size and the image's aspect: refused, or scaled by nearest pixel."
    )
    max_row_bytes: int = Field(default=2**20, ge=1, description="Bytes of a row of a manifest.")
    check_image_bytes: int = Field(
        default=2**30, ge=0, description="Bytes of finished images that a report reads again, to compare their digests."
    )

    preflight_seconds: float = Field(
        default=30, gt=0, le=600, description="Seconds that the page to submit looks at a job, before it runs."
    )

    tries: int = Field(default=4, ge=1, le=100, description="Attempts at a shard, the first included.")
    retry_seconds: float = Field(
        default=20, ge=0, description="Seconds before a shard's second attempt; doubled before each further one."
    )
    storage_tries: int = Field(
        default=5, ge=1, le=100, description="Attempts at a request to the store, and at reading a reply's body."
    )
    worker_deaths: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Workers that may die without a row ended in between, before an attempt stops.",
    )
    shard_timeout: float = Field(default=21_600, gt=0, description="Seconds that one attempt at a shard may take.")

    scratch: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"inpaint_ops-{os.geteuid()}",
        description="Local scratch folder: yours or root's; others must not be able to change what is yours in it.",
    )
    leases: str = Field(
        default="",
        description="A folder of device leases that all users of this machine share, made by its administrator; empty: "
        "only workers of the same user see each other's leases.",
    )
    prefetch: int | None = Field(
        default=None, ge=1, le=4096, description="Rows on this machine at most; empty: by the batch size."
    )
    prefetch_bytes: int = Field(
        default=4 * 2**30, ge=1, description="Bytes of sources and masks on the scratch disk; one row is always taken."
    )
    transfer_threads: int = Field(default=4, ge=1, le=64, description="Threads for downloads, and for uploads.")
    start_timeout: float = Field(default=1800, gt=0, description="Seconds a worker may take to load its model.")
    stall_timeout: float = Field(default=600, gt=0, description="Seconds without a step before a worker is killed.")
    lease_timeout: float = Field(default=900, ge=0, description="Seconds to wait for a free device.")
    patience: float = Field(
        default=300, ge=0, description="Seconds that a shard waits out a store that fails, or a full scratch disk."
    )
    grace: float = Field(
        default=25, ge=0, description="Seconds that the rows in the worker have to finish after SIGTERM."
    )
    progress_interval: float = Field(default=15, gt=0, le=15, description="Seconds between progress lines.")
    warm_host: str = Field(
        default="",
        description="The socket of this machine's warm host (`inpaint-ops warm-host`), which workers are forked from; "
        "empty: each is started by exec.",
    )
    worker_user: str = Field(
        default="", description="Where the tasks run as root: the user (`user` or `user:group`) that workers run as."
    )
    worker_env: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Further variables that workers get, by name, separated by commas; never credentials."
    )

    @field_validator("worker_env")
    @classmethod
    def _are_no_credentials(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not a variable's name: use letters, digits and _")
            if name.startswith(("AWS_", "AIRFLOW", "_AIRFLOW", "CELERY_")):
                raise ValueError(f"{name} may hold a credential, which a worker does not get")
        return names

    @field_validator("allowed_prefixes", "delivery_prefixes", "worker_env", "loras", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("side_products", mode="before")
    @classmethod
    def _are_listed(cls, value: object) -> object:
        return list_side_products(value)

    @field_validator("tuning_set", mode="before")
    @classmethod
    def _fields(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError(f"this is not JSON: {error}") from None
        return parse_fields(part for part in value.split(",") if part.strip())

    @field_validator(
        "batch_size",
        "shard_rows",
        "use_xformers",
        "model_revision",
        "vae",
        "tokenizer",
        "fill_model",
        "clip_model",
        "lpips_model",
        "names",
        "c2pa_certificate",
        "c2pa_key",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value


def parse_fields(assignments: Iterable[str]) -> dict[str, Any]:
    """`FIELD=VALUE` texts to a mapping; values are read as JSON where they are JSON. Raises ValueError."""
    fields: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text.strip()}: write FIELD=VALUE, for example vae_tiling=true")
        try:
            fields[name.strip()] = json.loads(value)
        except ValueError:
            fields[name.strip()] = value.strip()
    return fields


_PREFIX = "INPAINT_"
READ_BY_THE_DAGS = (
    "INPAINT_S3_CONN_ID", "INPAINT_INBOX_SCHEDULE", "INPAINT_STANDING_SCHEDULE", "INPAINT_HOUSEKEEPING_SCHEDULE",
    "INPAINT_ARRIVALS_QUEUE", "INPAINT_ARRIVALS_QUIET",
    "INPAINT_DEADLINE_HOURS", "INPAINT_NOTIFY", "INPAINT_NOTIFY_MAIL_TO",
)  # fmt: skip
"""Variables that only Airflow's files look at."""


def misspelt_variables(environment: Iterable[str]) -> list[str]:
    """A line for each variable that is spelled much like one of ours, and is none: it has no effect."""
    known = {*(name.upper() for name in Settings.model_fields), *(name[len(_PREFIX) :] for name in READ_BY_THE_DAGS)}
    lines = []
    for name in sorted(environment):
        given = name.upper().removeprefix(_PREFIX)
        if name.upper().startswith(_PREFIX) and given not in known:
            near = difflib.get_close_matches(given, known, n=1, cutoff=0.75)
            lines += [f"{name} is no setting and has no effect; did you mean {_PREFIX}{one}?" for one in near]
    return lines


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with `overrides` (those that are not None) on top.

    Raises ConfigError that names the variable and what is wrong with it.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        variable = name if name.isupper() else f"INPAINT_{name.upper()}"
        raise ConfigError(f"{variable}: {first['msg']} (it is {first['input']!r})") from None
