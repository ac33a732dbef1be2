"""inpaint-ops validate | manifest: what would be rejected, and manifests from folders."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import Any

import click

from inpaint_ops.cli.options import EXIT_NOT_ALL_DONE, as_command, job_of, job_options_of, json_option, workspace_of
from inpaint_ops.cli.terminal import say, say_json, say_json_lines
from inpaint_ops.config import Settings, load_settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import to_jsonl
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.pairing import pair
from inpaint_ops.manifest.prompts_file import read_prompts
from inpaint_ops.runs import Workspace
from inpaint_ops.runs.checking import check_models
from inpaint_ops.runs.missing import missing_objects
from inpaint_ops.runs.pictures import pictures_below
from inpaint_ops.runs.reading_rows import read_rows
from inpaint_ops.runs.sampling import spread_over
from inpaint_ops.tuning import check_choices
from inpaint_ops.variants import settle


def _row_count(context: click.Context, parameter: click.Parameter, given: str | None) -> int | None:
    """The number of rows that was asked for; for `all` the most that there can be."""
    if given is None:
        return None
    return sys.maxsize if given == "all" else click.IntRange(1)(given, parameter, context)


@click.command()
@click.argument("manifest")
@click.option("--out", metavar="PREFIX", help="The store, if rows read from it [INPAINT_STORE].")
@click.option(
    "--check-objects",
    is_flag=True,
    help="Look for every image and mask, also where listing their folders costs more than asking for each.",
)
@click.option(
    "--read",
    "to_read",
    metavar="COUNT|all",
    callback=_row_count,
    help="Read the image and the mask of so many rows, spread evenly, as a worker would: tell which would fail.",
)
@job_options_of
@json_option
@as_command
def validate(
    manifest: str,
    out: str | None,
    check_objects: bool,
    to_read: int | None,
    allow: tuple[str, ...],
    as_json: bool,
    **chosen: Any,
) -> None:
    """Tell which rows of MANIFEST a run with these options would reject or find no files for. Exit code 3 if any.

    Exit code 2 if there is no such model, or a choice cannot work.
    """
    settings = load_settings()
    workspace = workspace_of(settings, out or settings.store or parse(manifest).parent.uri, manifest, allow)
    job = job_of(settings, chosen)
    check_choices(job.tuning, job.tuning_overrides)
    about_models = check_models(workspace.storage, job, must_be_here=False)
    parsed, _ = workspace.read_manifest(manifest, job.row_limit, job.row_defaults())
    parsed, _ = settle(parsed, job)
    notes = (*parsed.notes, *about_models)
    missing: Iterable[str] = missing_objects(workspace.storage, parsed, ask_each=check_objects)
    failing: list[str] = []
    if to_read:
        read = read_rows(workspace.storage, settings, job, spread_over(parsed.accepted, to_read))
        notes, missing = (*notes, *read.notes(len(parsed.accepted))), dict.fromkeys(missing)
        failing = [line for line in read.problems if line not in missing]
    problems = itertools.chain((row.error.message for row in parsed.rejected), missing, failing)
    if as_json:
        counts = {"rows": parsed.rows, "accepted": len(parsed.accepted), "warnings": notes}
        found = say_json_lines(counts, "problems", problems)
    else:
        found = 0
        for note in notes:
            say(f"note: {note}")
        for line in problems:
            say(line)
            found += 1
        missed = found - len(parsed.rejected) - len(failing)
        say(  # always `rows` and `objects`: scripts look for these words
            f"{parsed.rows} rows: {len(parsed.accepted)} accepted, {len(parsed.rejected)} rejected, "
            f"{missed} objects missing" + (f", {len(failing)} would fail" if failing else "")
        )
    sys.exit(EXIT_NOT_ALL_DONE if found else 0)


@click.command()
@click.argument("images")
@click.argument("masks", required=False)
@click.option("--prompt", help="One prompt for all rows.")
@click.option("--prompts", metavar="TABLE", help="A CSV or an Excel workbook with a prompt for each image.")
@click.option("--key-column", default="image", show_default=True, help="The table's column of image names or stems.")
@click.option("--prompt-column", default="prompt", show_default=True, help="The table's column of prompts.")
@click.option(
    "--mask-suffix", metavar="TEXT", help="What a mask's stem ends with; default: mask, _mask, -mask, mask_..."
)
@click.option("--glob", "pattern", metavar="GLOB", help="Only images whose name or path below IMAGES matches.")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Folders below, too.")
@click.option("--id", "id_template", metavar="TEMPLATE", help="Ids, of {stem}, {name}, {path} and {n}.")
@click.option("--allow", multiple=True, metavar="PREFIX", help="A further prefix; links within it may be read.")
@click.option(
    "--out", "-o", metavar="FILE", help="Where to write the manifest: a path or URI; default: to standard output."
)
@as_command
def manifest(
    images: str,
    masks: str | None,
    prompt: str | None,
    prompts: str | None,
    key_column: str,
    prompt_column: str,
    mask_suffix: str | None,
    pattern: str | None,
    recursive: bool,
    id_template: str | None,
    allow: tuple[str, ...],
    out: str | None,
) -> None:
    """Write a manifest from two folders or prefixes, IMAGES and MASKS, or from one that holds both.

    They are matched by relative path, then by stem. What gives no row is named on standard error; exit code 3 if there
    is any, or no row at all.
    """
    if prompt is None and prompts is None:
        raise ConfigError("give --prompt TEXT or --prompts TABLE")
    roots = parse(images).as_prefix(), parse(masks or images).as_prefix()
    settings = load_settings()
    readable = [*(root.uri for root in roots), *allow]
    workspace = Workspace.open(settings, store=parse(out).parent.uri if out else images, also_readable=readable)
    notes = Notes()
    texts = _prompts(settings, prompts, key_column, prompt_column, notes) if prompts else None
    listed, refused = [], []
    for root in dict.fromkeys(roots):
        found, odd = pictures_below(workspace.storage, root, recursive=recursive)
        listed.append([info.location for info in found])
        refused += odd
    paired = pair(
        listed[0],
        listed[-1],
        prompt=prompt,
        prompts=texts,
        roots=roots,
        mask_suffix=mask_suffix,
        pattern=pattern,
        id_template=id_template,
    )
    rows = [_shorten(row, parse(out).parent if out else None) for row in paired.rows]
    if out:
        workspace.storage.put(parse(out), to_jsonl(rows), content_type="application/jsonl")
    else:
        for row in rows:
            say_json(row)
    for note in notes.lines():
        say(f"note: {note}", err=True)
    without_row = [*refused, *paired.without_row()]
    for line in (*without_row, *paired.left_out()):
        say(line, err=True)
    for name in paired.prompts_unused:
        say(f"a prompt without an image: {name}", err=True)
    say(f"{len(paired.rows)} rows", err=True)  # always `rows`: scripts look for it
    if without_row or not rows:
        sys.exit(EXIT_NOT_ALL_DONE)


def _prompts(settings: Settings, prompts: str, key_column: str, prompt_column: str, notes: Notes) -> dict[str, str]:
    """The prompts of a file that the user named, and so may read wherever it lies."""
    place = parse(prompts)
    beside = Workspace.open(settings, store=place.parent.uri)
    body = beside.storage.get(place, max_bytes=settings.max_manifest_bytes)
    return read_prompts(
        body, key_column=key_column, prompt_column=prompt_column, max_bytes=settings.max_manifest_bytes, notes=notes
    )


def _shorten(row: dict[str, Any], folder: Location | None) -> dict[str, Any]:
    """Keys relative to the manifest where they lie below it, so that the folder can move."""
    if folder is None:
        return row
    prefix = folder.as_prefix().uri
    return {key: value.removeprefix(prefix) if key in ("image", "mask") else value for key, value in row.items()}
