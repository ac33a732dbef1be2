"""Options that several commands share, and how a command ends: one line for an error, and an exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, get_args

import click
from pydantic import ValidationError

from inpaint_ops.cli.terminal import say, say_json
from inpaint_ops.config import (
    EXTENSIONS,
    Blend,
    FewStep,
    Fill,
    Grain,
    Match,
    PromptSyntax,
    Scheduler,
    Settings,
    Sharpen,
    parse_fields,
)
from inpaint_ops.errors import ConfigError, InpaintOpsError, UnsafePathError
from inpaint_ops.locations import Location, parse
from inpaint_ops.machine.private_folder import read_bounded, trusted_folder
from inpaint_ops.model.own_models import OWN_MODELS, PICKLES
from inpaint_ops.planning import JobOptions, Plan, job_options
from inpaint_ops.records import MAX_VARIANTS
from inpaint_ops.runs import Workspace
from inpaint_ops.submitting import read_preset

EXIT_NOT_ALL_DONE = 3


def _fail(error: InpaintOpsError, *, as_json: bool) -> NoReturn:
    if as_json:
        say_json({"error": {"type": type(error).__name__, "message": str(error)}})
    say(f"inpaint-ops: {error}", err=True)
    sys.exit(error.exit_code)


def as_command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into one line and an exit code."""

    @wraps(function)
    def wrapped(**options: Any) -> None:
        try:
            function(**options)
        except InpaintOpsError as error:
            _fail(error, as_json=bool(options.get("as_json")))
        except KeyboardInterrupt:
            say("inpaint-ops: interrupted; the same command goes on where this one stopped", err=True)
            sys.exit(130)

    return wrapped


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add the flag `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")(function)


def job_options_of(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a job: model, tuning, quality and so on."""
    options = [
        click.option(
            "--model",
            help="A hub id, a folder, a .safetensors file, demo, tiny-random, mid-random, sdxl-random [INPAINT_MODEL].",
        ),
        click.option("--revision", "model_revision", help="The hub commit or tag [INPAINT_MODEL_REVISION]."),
        click.option("--vae", help="A folder or a .safetensors file in place of the model's VAE [INPAINT_VAE]."),
        click.option(
            "--tokenizer",
            help="For a model in one file: an SDXL model's folder, or its tokenizer's [INPAINT_TOKENIZER].",
        ),
        click.option(
            "--lora",
            "loras",
            multiple=True,
            metavar="[NAME=]PATH_OR_URI[:WEIGHT]",
            help="A LoRA, several times; rows may choose of them by name [INPAINT_LORAS].",
        ),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to paint [INPAINT_DEVICE]."),
        click.option("--tuning", help="auto, notes, low-memory or fast [INPAINT_TUNING]."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="FIELD=VALUE",
            help="One field of the tuning, over the preset [INPAINT_TUNING_SET].",
        ),
        click.option(
            "--scheduler",
            type=click.Choice(get_args(Scheduler)),
            help="How steps are taken; model: its own, euler for SDXL [INPAINT_SCHEDULER].",
        ),
        click.option(
            "--few-step",
            type=click.Choice(get_args(FewStep)),
            help="Scheduler, steps, guidance and strength as the LoRA or model of few steps asks.",
        ),
        click.option("--prompt", help="For rows that have none; {color} stands for the row's field of that name."),
        click.option("--negative-prompt", help="For rows that have none, as --prompt."),
        click.option("--prompt-2", help="For the second text encoder, as --prompt."),
        click.option("--negative-prompt-2", help="For the second text encoder, as --prompt."),
        click.option(
            "--prompt-syntax",
            type=click.Choice(get_args(PromptSyntax)),
            help="plain: brackets are words; weighted: (words:1.3), [words] [INPAINT_PROMPT_SYNTAX].",
        ),
        click.option(
            "--blend",
            type=click.Choice(get_args(Blend)),
            help="How patches meet the source: hard, feather, poisson, or by the measured seam [INPAINT_BLEND].",
        ),
        click.option(
            "--match",
            type=click.Choice(get_args(Match)),
            help="Bring patches' colours nearer to a ring around the mask [INPAINT_MATCH].",
        ),
        click.option(
            "--grain",
            type=click.Choice(get_args(Grain)),
            help="match: bring patches' noise up to that of a ring around the mask [INPAINT_GRAIN].",
        ),
        click.option(
            "--sharpen",
            type=click.Choice(get_args(Sharpen)),
            help="match: sharpen patches to the detail of a ring around the mask [INPAINT_SHARPEN].",
        ),
        click.option(
            "--format",
            type=click.Choice([*EXTENSIONS, "source"]),
            help="What images of rows that name no format are written as; source: as their source [INPAINT_FORMAT].",
        ),
        click.option(
            "--names",
            metavar="TEMPLATE",
            help="What images are called, such as '{folder}/{stem}.{ext}'; also {id}, {row}, {k} [INPAINT_NAMES].",
        ),
        click.option(
            "--fill",
            type=click.Choice(get_args(Fill)),
            help="What the masked area holds before it is encoded; matters at a strength below 1 [INPAINT_FILL].",
        ),
        click.option(
            "--fill-model", metavar="FILE", help="For --fill lama: the network, an ONNX file [INPAINT_FILL_MODEL]."
        ),
        click.option(
            "--clip-model",
            metavar="FOLDER",
            help="Score each image against its prompt by this CLIP model [INPAINT_CLIP_MODEL].",
        ),
        click.option(
            "--lpips-model",
            metavar="FILE",
            help="Measure each image's LPIPS distance to its source by this ONNX file [INPAINT_LPIPS_MODEL].",
        ),
        click.option(
            "--also",
            "side_products",
            metavar="patch,mask,preview",
            help="Files beside each image, some of these with commas between [INPAINT_SIDE_PRODUCTS].",
        ),
        click.option(
            "--variants",
            type=click.IntRange(1, MAX_VARIANTS),
            help="Images of each row that names no number, each with a seed of its own; default 1.",
        ),
        click.option(
            "--pick",
            type=click.Choice(["first", "best", "clip"]),
            help="Which variant is its row's image: the first, that which fits its surroundings best, or that which "
            "shows its prompt best, by --clip-model.",
        ),
        click.option("--batch-size", type=click.IntRange(1, 64), help="Rows painted together [INPAINT_BATCH_SIZE]."),
        click.option(
            "--quality", type=click.Choice(["good", "high", "best"]), help="20, 30 or 50 steps; default high."
        ),
        click.option("--steps", type=click.IntRange(1, 500), help="Steps for rows that name none; beats --quality."),
        click.option("--guidance-scale", type=click.FloatRange(0, 50), help="Default 7.5."),
        click.option(
            "--guidance-cutoff",
            type=click.FloatRange(0, 1, min_open=True),
            help="The share of the steps after which guidance is off, for rows that name none; default 1: it never is. "
            "Faster, and another image.",
        ),
        click.option("--strength", type=click.FloatRange(0, 1, min_open=True), help="Default 0.9999."),
        click.option(
            "--profile",
            is_flag=True,
            default=None,
            help="Have each worker leave a trace of its threads, operators and kernels, for Perfetto.",
        ),
        click.option("--row-limit", type=click.IntRange(1), help="Only the first rows."),
        click.option(
            "--sample",
            type=click.IntRange(1),
            help="Only so many rows, spread over those that can be painted, in a run of their own: to look at first.",
        ),
        click.option("--shard-rows", type=click.IntRange(1), help="Rows in a shard [INPAINT_SHARD_ROWS]."),
        click.option("--failure-threshold", type=click.FloatRange(0, 1), help="Share of rows that may fail."),
        click.option("--project", metavar="NAME", help="What the run belongs to, for the page of cost and trends."),
        click.option("--allow", multiple=True, metavar="PREFIX", help="A further prefix that rows may read from."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def job_of(settings: Settings, chosen: dict[str, Any]) -> JobOptions:
    """The job that the options choose, over the settings. Raises ConfigError.

    Names of files are made whole: they are meant from the folder that the command is given in, and a worker has a
    folder of its own.
    """
    try:
        overrides = parse_fields(chosen.pop("overrides"))
    except ValueError as error:
        raise ConfigError(f"--set {error}") from None
    chosen["loras"] = chosen.get("loras") or None
    job = job_options(settings, tuning_overrides=overrides, **chosen)
    files = {
        "model": _whole(job.model) if _is_here(job.model) else job.model,
        "vae": _whole(job.vae),
        "tokenizer": _whole(job.tokenizer),
        "fill_model": _whole(job.fill_model),
        "clip_model": _whole(job.clip_model),
        "lpips_model": _whole(job.lpips_model),
        "loras": tuple(
            one if one.is_in_store else one.model_copy(update={"place": _whole(one.place)}) for one in job.loras
        ),
    }
    return job.model_copy(update=files)


def _is_here(model: str) -> bool:
    """Whether it names a file or a folder, and no model of our own or of the hub."""
    if model in OWN_MODELS:
        return False  # a folder of that name is ./demo
    suffixes = (".safetensors", *PICKLES)
    return model.startswith(("./", "../", "~")) or model.lower().endswith(suffixes) or Path(model).is_dir()


def _whole(name: str | None) -> str | None:
    return None if name is None else os.path.abspath(os.path.expanduser(name))


def preset_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--preset`."""
    about = "Options that were saved by this name in the store; those of the command line beat them."
    return click.option("--preset", metavar="NAME", help=about)(function)


def with_preset(workspace: Workspace, name: str | None, chosen: dict[str, Any]) -> dict[str, Any]:
    """What was chosen, and where nothing was, what the preset says. Raises ConfigError, StorageError."""
    if name is None:
        return chosen
    options = dict(read_preset(workspace, name)[0].options)
    saved = options.pop("tuning_overrides", None) or {}
    overrides = [f"{field}={json.dumps(value)}" for field, value in saved.items()]
    found: dict[str, Any] = {**options, **{field: value for field, value in chosen.items() if value not in (None, ())}}
    found["overrides"] = (*overrides, *chosen["overrides"])  # the last of a field counts
    return dict.fromkeys(chosen) | found


def named_options(chosen: dict[str, Any]) -> set[str]:
    """The fields of a job that the command line named, whatever the settings say. Call it before `job_of`."""
    named = {name for name, value in chosen.items() if value is not None and name not in ("overrides", "batch_size")}
    if not chosen.get("loras"):
        named.discard("loras")
    if chosen["overrides"] or chosen["batch_size"] is not None:
        named.add("tuning_overrides")
    return named


def workspace_of(settings: Settings, out: str | None, manifest: str | None, allow: tuple[str, ...]) -> Workspace:
    """The workspace at `out`, which may read beside `manifest` and below `allow` too. Raises ConfigError.

    Of a `failed.jsonl`, `rejected.jsonl`, `accepted.jsonl` or `redo.jsonl` in the folder of a run that this user made
    on this machine, and that nobody else can write to, it may also read what that run could read beside its manifest.
    """
    readable = list(allow)
    if manifest is not None:
        place = parse(manifest)
        readable.append((place if place.key.endswith("/") else place.parent).uri)
        if (sources := _sources_of_own_run(place)) is not None:
            say(
                f"inpaint-ops: rows may be read from {sources} too: the manifest of this run of yours lay there",
                err=True,
            )
            readable.append(sources.uri)
    return Workspace.open(settings, store=out, also_readable=readable)


_OF_A_RUN = ("failed.jsonl", "rejected.jsonl", "accepted.jsonl", "redo.jsonl")
_PLAN_BYTES = 64 * 2**20


def _sources_of_own_run(place: Location) -> Location | None:
    """The folder of the manifest of the run that `place` is a file of; None unless this user alone could have said so.

    What a store says of itself is not believed: whoever writes to it could have any file of this user's read. A local
    folder that only this user can change is as good as the command that made the run.
    """
    if place.bucket is not None or place.name not in _OF_A_RUN:
        return None
    try:
        folder = trusted_folder(Path(place.parent.key), make=False)
        for about in ((folder / name).lstat() for name in ("plan.json", place.name)):
            if about.st_uid != os.geteuid() or about.st_mode & 0o022:
                return None
        plan = Plan.model_validate_json(read_bounded(folder / "plan.json", _PLAN_BYTES))
        return parse(plan.manifest).parent
    except (OSError, UnsafePathError, ValidationError, ConfigError):
        return None
