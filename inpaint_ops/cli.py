"""inpaint-ops run | plan | validate | manifest | doctor | models | report."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, get_args

import click
from tqdm import tqdm

import inpaint_ops
from inpaint_ops.config import Scheduler, Settings, load_settings, parse_fields
from inpaint_ops.device import local_card
from inpaint_ops.doctor import diagnose
from inpaint_ops.errors import ConfigError, DrainedError, InpaintOpsError, StorageError
from inpaint_ops.layout import check_run_name, run_name_from
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import ParsedManifest, to_jsonl
from inpaint_ops.pairing import pair, read_prompts
from inpaint_ops.planning import JobOptions, job_options
from inpaint_ops.records import RunSummary
from inpaint_ops.runs import Workspace, finish, make_plan, paint, prepare
from inpaint_ops.supervisor import Progress

EXIT_NOT_ALL_DONE = 3
_LONGEST_PAUSE = 600.0


def _fail(error: InpaintOpsError, *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": {"type": type(error).__name__, "message": str(error)}}))
    click.echo(f"inpaint-ops: {error}", err=True)
    sys.exit(error.exit_code)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into one line and an exit code."""

    @wraps(function)
    def wrapped(**options: Any) -> None:
        try:
            function(**options)
        except InpaintOpsError as error:
            _fail(error, as_json=bool(options.get("as_json")))
        except KeyboardInterrupt:
            click.echo("inpaint-ops: interrupted; the same command goes on where this one stopped", err=True)
            sys.exit(130)

    return wrapped


def _json_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")(function)


def _job_options(function: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--model", help="A hub id, a folder, or tiny-random, mid-random, sdxl-random [INPAINT_MODEL]."),
        click.option("--revision", "model_revision", help="The hub commit or tag [INPAINT_MODEL_REVISION]."),
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
        click.option("--batch-size", type=click.IntRange(1, 64), help="Rows painted together [INPAINT_BATCH_SIZE]."),
        click.option(
            "--quality", type=click.Choice(["good", "high", "best"]), help="20, 30 or 50 steps; default high."
        ),
        click.option("--steps", type=click.IntRange(1, 500), help="Steps for rows that name none; beats --quality."),
        click.option("--guidance-scale", type=click.FloatRange(0, 50), help="Default 7.5."),
        click.option("--strength", type=click.FloatRange(0, 1, min_open=True), help="Default 0.9999."),
        click.option("--row-limit", type=click.IntRange(1), help="Only the first rows."),
        click.option("--shard-rows", type=click.IntRange(1), help="Rows in a shard [INPAINT_SHARD_ROWS]."),
        click.option("--failure-threshold", type=click.FloatRange(0, 1), help="Share of rows that may fail."),
        click.option("--allow", multiple=True, metavar="PREFIX", help="A further prefix that rows may read from."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _job(settings: Settings, chosen: dict[str, Any]) -> JobOptions:
    try:
        overrides = parse_fields(chosen.pop("overrides"))
    except ValueError as error:
        raise ConfigError(f"--set {error}") from None
    return job_options(settings, tuning_overrides=overrides, **chosen)


def _workspace(settings: Settings, out: str | None, manifest: str | None, allow: tuple[str, ...]) -> Workspace:
    readable = list(allow)
    if manifest is not None:
        readable.append(parse(manifest).parent.uri)
    return Workspace.open(settings, store=out, also_readable=readable)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(inpaint_ops.__version__)
@click.option("-v", "--verbose", is_flag=True, help="Log what happens, the workers' own lines too.")
def main(verbose: bool) -> None:
    """Bulk SDXL inpainting. A manifest goes in; every row comes out once, as an image or as a reason."""
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)


@main.command()
@click.argument("manifest")
@click.option("--out", metavar="PREFIX", help="Where runs land: a folder or s3://bucket/prefix [INPAINT_STORE].")
@click.option("--run", "run_name", help="The run's name; default: the manifest's. The same name and manifest resume.")
@_job_options
@_json_option
@_command
def run(
    manifest: str, out: str | None, run_name: str | None, allow: tuple[str, ...], as_json: bool, **chosen: Any
) -> None:
    """Paint every row of MANIFEST (a path or URI of .jsonl, .csv or .parquet).

    Exit code 0: all rows done; 1: an internal error; 2: usage or configuration; 3: some rows failed or were rejected.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = load_settings(progress_interval=1.0)  # for the bar; a task's log wants it less often
    workspace = _workspace(settings, out, manifest, allow)
    name = check_run_name(run_name) if run_name else run_name_from(Path(parse(manifest).name).stem)
    job = _job(settings, chosen)
    plan = prepare(workspace, manifest, name, job, card=local_card(job.device))
    with tqdm(total=plan.rows, unit="row", disable=as_json or None, initial=plan.rejected) as bar:
        base = plan.rejected
        for shard in plan.shards:

            def show(progress: Progress, base: int = base) -> None:
                bar.n = base + progress.done + progress.failed
                bar.set_postfix_str(
                    f"{progress.phase}, {progress.failed} failed" if progress.failed else progress.phase
                )

            try:
                _paint_with_retries(workspace, name, shard.name, show)
            except InpaintOpsError:
                with contextlib.suppress(InpaintOpsError):  # what stopped the shard may stop this, and is told anyway
                    finish(workspace, name)
                raise
            base += shard.rows
            bar.n = base
            bar.refresh()
    summary = finish(workspace, name)
    layout = workspace.layout(name)
    if as_json:
        click.echo(summary.model_dump_json())
    else:
        _print_summary(summary, layout.root)
    if summary.verdict != "VALID" or summary.counts.done != summary.counts.rows:
        sys.exit(EXIT_NOT_ALL_DONE)


def _paint_with_retries(workspace: Workspace, run: str, shard: str, show: Callable[[Progress], None]) -> None:
    tries, pause = workspace.settings.tries, workspace.settings.retry_seconds
    for attempt in range(1, tries + 1):
        try:
            paint(workspace, run, shard, final_attempt=attempt == tries, on_progress=show)
            return
        except InpaintOpsError as error:
            if error.permanent or attempt == tries or isinstance(error, DrainedError):
                raise
            click.echo(f"inpaint-ops: {error} (try {attempt} of {tries}, INPAINT_TRIES)", err=True)
            time.sleep(min(pause * 2 ** (attempt - 1), _LONGEST_PAUSE))


def _print_summary(summary: RunSummary, root: Location) -> None:
    counts = summary.counts
    click.echo(
        f"{summary.verdict}: {counts.done} done, {counts.failed} failed, {counts.rejected} rejected of {counts.rows}"
    )
    for line in (*summary.reasons, *summary.warnings):
        click.echo(f"  - {line}")
    if summary.images_per_second:
        warm = f", {summary.images_per_second_warm:.3f} while painting" if summary.images_per_second_warm else ""
        click.echo(f"  {summary.images_per_second:.3f} images/s in {summary.seconds:.1f} s{warm}")
    click.echo(f"  {root}  (report.html, run.json, images/, failed.jsonl)")


@main.command()
@click.argument("manifest")
@click.option("--out", metavar="PREFIX", help="The store, if rows read from it [INPAINT_STORE].")
@click.option("--check-objects", is_flag=True, help="Ask the store for every image and mask too.")
@click.option("--allow", multiple=True, metavar="PREFIX", help="A further prefix that rows may read from.")
@_json_option
@_command
def validate(manifest: str, out: str | None, check_objects: bool, allow: tuple[str, ...], as_json: bool) -> None:
    """Tell which rows of MANIFEST would be rejected, and why. Exit code 3 if any would."""
    settings = load_settings()
    workspace = _workspace(settings, out or settings.store or parse(manifest).parent.uri, manifest, allow)
    parsed, _ = workspace.read_manifest(manifest)
    missing = _missing_objects(workspace, parsed) if check_objects else []
    problems = [row.error.message for row in parsed.rejected] + missing
    if as_json:
        click.echo(json.dumps({"rows": parsed.rows, "accepted": len(parsed.accepted), "problems": problems}))
    else:
        for line in problems:
            click.echo(line)
        click.echo(
            f"{parsed.rows} rows: {len(parsed.accepted)} accepted, {len(parsed.rejected)} rejected, "
            f"{len(missing)} objects missing"
        )
    sys.exit(EXIT_NOT_ALL_DONE if problems else 0)


def _missing_objects(workspace: Workspace, parsed: ParsedManifest) -> list[str]:
    problems = []
    for row in parsed.accepted:
        for field in ("image", "mask"):
            try:
                workspace.storage.stat(getattr(row, field))
            except StorageError as error:
                problems.append(f"row {row.row}: {field}: {error}")
    return problems


@main.command()
@click.argument("manifest")
@click.option("--out", metavar="PREFIX", help="Where the run would land [INPAINT_STORE].")
@click.option(
    "--devices", type=click.IntRange(1), default=1, show_default=True, help="Devices that would share the shards."
)
@click.option("--card", metavar="NAME", help="What will paint, as nvidia-smi names it; default: this machine's.")
@_job_options
@_json_option
@_command
def plan(
    manifest: str,
    out: str | None,
    devices: int,
    card: str | None,
    allow: tuple[str, ...],
    as_json: bool,
    **chosen: Any,
) -> None:
    """Tell what a run of MANIFEST would do: rows, shards, expected seconds and memory. Writes nothing."""
    settings = load_settings()
    workspace = _workspace(settings, out or settings.store or parse(manifest).parent.uri, manifest, allow)
    job = _job(settings, chosen)
    card = card or local_card(job.device)
    made, parsed = make_plan(workspace, manifest, "plan", job, card=card, devices=devices)
    if as_json:
        body = made.model_dump(mode="json")
        body["rejected_rows"] = [row.error.message for row in parsed.rejected]
        click.echo(json.dumps(body))
        return
    click.echo(
        f"{made.rows} rows: {len(parsed.accepted)} to paint, {made.rejected} rejected; {len(made.shards)} shards"
    )
    for row in parsed.rejected:
        click.echo(f"  {row.error.message}")
    for shard in made.shards[:20]:
        click.echo(f"  shard {shard.name}: {shard.rows} rows, {shard.first_row} to {shard.last_row}")
    if len(made.shards) > 20:
        click.echo(f"  ... and {len(made.shards) - 20} more")
    if made.forecast is not None:
        click.echo(f"forecast: {made.forecast.in_words()}")


@main.command()
@click.argument("images")
@click.argument("masks")
@click.option("--prompt", help="One prompt for all rows.")
@click.option("--prompts", metavar="CSV", help="A CSV with a prompt for each image.")
@click.option("--key-column", default="image", show_default=True, help="The CSV's column of image names or stems.")
@click.option("--prompt-column", default="prompt", show_default=True, help="The CSV's column of prompts.")
@click.option(
    "--out", "-o", metavar="FILE", help="Where to write the manifest: a path or URI; default: to standard output."
)
@_command
def manifest(
    images: str,
    masks: str,
    prompt: str | None,
    prompts: str | None,
    key_column: str,
    prompt_column: str,
    out: str | None,
) -> None:
    """Write a manifest from two folders or prefixes: IMAGES and MASKS, matched by stem.

    What has no partner is named on standard error; exit code 3 if there is any.
    """
    if prompt is None and prompts is None:
        raise ConfigError("give --prompt TEXT or --prompts CSV")
    prefixes = [parse(text).as_prefix() for text in (images, masks)]
    readable = [prefix.uri for prefix in prefixes] + ([parse(prompts).uri] if prompts else [])
    store = parse(out).parent.uri if out else images
    workspace = Workspace.open(load_settings(), store=store, also_readable=readable)
    texts = None
    if prompts:
        data = workspace.storage.get(parse(prompts), max_bytes=workspace.settings.max_manifest_bytes)
        texts = read_prompts(data, key_column=key_column, prompt_column=prompt_column)
    listed = [[info.location for info in workspace.storage.list(prefix)] for prefix in prefixes]
    paired = pair(listed[0], listed[1], prompt=prompt, prompts=texts)
    body = to_jsonl([_shorten(row, parse(out).parent if out else None) for row in paired.rows])
    if out:
        workspace.storage.put(parse(out), body, content_type="application/jsonl")
    else:
        click.echo(body.decode(), nl=False)
    for what, uris in (
        ("image without a mask", paired.images_alone),
        ("mask without an image", paired.masks_alone),
        ("image without a prompt", paired.without_prompt),
    ):
        for uri in uris:
            click.echo(f"{what}: {uri}", err=True)
    click.echo(f"{len(paired.rows)} rows", err=True)
    if paired.images_alone or paired.masks_alone or paired.without_prompt:
        sys.exit(EXIT_NOT_ALL_DONE)


def _shorten(row: dict[str, Any], folder: Location | None) -> dict[str, Any]:
    """Keys relative to the manifest where they lie below it, so that the folder can move."""
    if folder is None:
        return row
    prefix = folder.as_prefix().uri
    return {key: value.removeprefix(prefix) if key != "prompt" else value for key, value in row.items()}


@main.command()
@click.option("--out", metavar="PREFIX", help="A store to probe [INPAINT_STORE].")
@_json_option
@_command
def doctor(out: str | None, as_json: bool) -> None:
    """Tell what this machine can do and what is missing. Exit code 2 if a run could not work here."""
    checks = diagnose(load_settings(), out)
    if as_json:
        click.echo(json.dumps([check.model_dump() for check in checks]))
    else:
        for check in checks:
            click.echo(f"{check.state:7}  {check.name:14}  {check.detail}")
    sys.exit(2 if any(check.state == "missing" for check in checks) else 0)


@main.group()
def models() -> None:
    """The model cache: fetch, list, verify."""


@models.command("pull")
@click.argument("model", required=False)
@click.option("--revision", help="The hub commit or tag.")
@_command
def models_pull(model: str | None, revision: str | None) -> None:
    """Fetch MODEL (default: INPAINT_MODEL) into the cache (HF_HOME), or build a random one there, and verify it."""
    from inpaint_ops.model.sources import pull

    settings = load_settings()
    name = model or settings.model
    folder = pull(name, revision or settings.model_revision, on_progress=lambda line: click.echo(line, err=True))
    click.echo(f"{name}: {folder}")


@models.command("list")
@_json_option
@_command
def models_list(as_json: bool) -> None:
    """List the models in the cache (HF_HOME) and what compiled graphs take there. Exit code 2 if one is not whole."""
    from huggingface_hub import constants

    from inpaint_ops.model.compiled import kept
    from inpaint_ops.model.sources import cached_models

    found = cached_models()
    graphs = kept(Path(constants.HF_HOME))
    if as_json:
        rows = [
            {"name": one.name, "revision": one.revision, "folder": str(one.folder), "bytes": one.bytes,
             "variant": one.variant, "random_weights": one.random, "whole": not one.problem, "problem": one.problem}
            for one in found
        ]  # fmt: skip
        click.echo(json.dumps({"models": rows, "compiled": graphs}))
    else:
        for one in found:
            kind = "random weights" if one.random else one.variant or "plain"
            state = f"NOT WHOLE: {one.problem}" if one.problem else "whole"
            click.echo(f"{one.name}  {one.revision}  {one.bytes / 1e9:.2f} GB  {kind}  {state}")
        if not found:
            click.echo(f"no models in {constants.HF_HOME}: inpaint-ops models pull")
        for name, size in graphs.items():
            click.echo(f"compiled graphs  {name}  {size / 1e9:.2f} GB")
    if any(one.problem for one in found):
        sys.exit(2)


@models.command("verify")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_command
def models_verify(folder: Path) -> None:
    """Check that FOLDER holds a whole SDXL inpainting model in safetensors, and the one that was published."""
    from inpaint_ops.model.sources import check_published, verify

    check_published(verify(folder))
    click.echo(f"{folder}: whole")


@main.command()
@click.argument("run_name", metavar="RUN")
@click.option("--out", metavar="PREFIX", help="Where runs are [INPAINT_STORE].")
@click.option("--allow", multiple=True, metavar="PREFIX", help="A prefix that the gallery's sources lie under.")
@_json_option
@_command
def report(run_name: str, out: str | None, allow: tuple[str, ...], as_json: bool) -> None:
    """Rebuild RUN's summary, tables and page from its records. Exit code 3 if rows failed or were rejected."""
    workspace = _workspace(load_settings(), out, None, allow)
    plan_of_run = workspace.plan(run_name)
    if plan_of_run is not None:
        workspace = _workspace(load_settings(), out, plan_of_run.manifest, allow)
    summary = finish(workspace, run_name)
    if as_json:
        click.echo(summary.model_dump_json())
    else:
        _print_summary(summary, workspace.layout(run_name).root)
    if summary.verdict != "VALID" or summary.counts.done != summary.counts.rows:
        sys.exit(EXIT_NOT_ALL_DONE)


if __name__ == "__main__":
    main()
