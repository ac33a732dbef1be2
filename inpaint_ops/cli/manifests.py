"""inpaint-ops validate | manifest: what would be rejected, and manifests from folders."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import click

from inpaint_ops.cli.options import EXIT_NOT_ALL_DONE, as_command, json_option, workspace_of
from inpaint_ops.cli.terminal import say, say_json, say_json_lines
from inpaint_ops.config import load_settings
from inpaint_ops.errors import ConfigError, StorageError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import ParsedManifest, to_jsonl
from inpaint_ops.manifest.pairing import pair, read_prompts
from inpaint_ops.runs import Workspace


@click.command()
@click.argument("manifest")
@click.option("--out", metavar="PREFIX", help="The store, if rows read from it [INPAINT_STORE].")
@click.option("--check-objects", is_flag=True, help="Ask the store for every image and mask too.")
@click.option("--allow", multiple=True, metavar="PREFIX", help="A further prefix that rows may read from.")
@json_option
@as_command
def validate(manifest: str, out: str | None, check_objects: bool, allow: tuple[str, ...], as_json: bool) -> None:
    """Tell which rows of MANIFEST would be rejected, and why. Exit code 3 if any would."""
    settings = load_settings()
    workspace = workspace_of(settings, out or settings.store or parse(manifest).parent.uri, manifest, allow)
    parsed, _ = workspace.read_manifest(manifest)
    missing = _missing_objects(workspace, parsed) if check_objects else iter(())
    problems = itertools.chain((row.error.message for row in parsed.rejected), missing)
    if as_json:
        counts = {"rows": parsed.rows, "accepted": len(parsed.accepted), "warnings": parsed.notes}
        found = say_json_lines(counts, "problems", problems)
    else:
        found = 0
        for note in parsed.notes:
            say(f"note: {note}")
        for line in problems:
            say(line)
            found += 1
        say(
            f"{parsed.rows} rows: {len(parsed.accepted)} accepted, {len(parsed.rejected)} rejected, "
            f"{found - len(parsed.rejected)} objects missing"
        )
    sys.exit(EXIT_NOT_ALL_DONE if found else 0)


def _missing_objects(workspace: Workspace, parsed: ParsedManifest) -> Iterator[str]:
    for row in parsed.accepted:
        for field in ("image", "mask"):
            try:
                workspace.storage.stat(getattr(row, field))
            except StorageError as error:
                yield f"row {row.row}: {field}: {error}"


@click.command()
@click.argument("images")
@click.argument("masks")
@click.option("--prompt", help="One prompt for all rows.")
@click.option("--prompts", metavar="CSV", help="A CSV with a prompt for each image.")
@click.option("--key-column", default="image", show_default=True, help="The CSV's column of image names or stems.")
@click.option("--prompt-column", default="prompt", show_default=True, help="The CSV's column of prompts.")
@click.option(
    "--out", "-o", metavar="FILE", help="Where to write the manifest: a path or URI; default: to standard output."
)
@as_command
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
    settings = load_settings()
    workspace = Workspace.open(settings, store=store, also_readable=readable)
    texts = None
    if prompts:
        body = workspace.storage.get(parse(prompts), max_bytes=settings.max_manifest_bytes)
        texts = read_prompts(body, key_column=key_column, prompt_column=prompt_column)
    listed = [[info.location for info in workspace.storage.list(prefix)] for prefix in prefixes]
    paired = pair(listed[0], listed[1], prompt=prompt, prompts=texts)
    rows = [_shorten(row, parse(out).parent if out else None) for row in paired.rows]
    if out:
        workspace.storage.put(parse(out), to_jsonl(rows), content_type="application/jsonl")
    else:
        for row in rows:
            say_json(row)
    for what, uris in (
        ("image without a mask", paired.images_alone),
        ("mask without an image", paired.masks_alone),
        ("image without a prompt", paired.without_prompt),
    ):
        for uri in uris:
            say(f"{what}: {uri}", err=True)
    say(f"{len(paired.rows)} rows", err=True)
    if paired.images_alone or paired.masks_alone or paired.without_prompt:
        sys.exit(EXIT_NOT_ALL_DONE)


def _shorten(row: dict[str, Any], folder: Location | None) -> dict[str, Any]:
    """Keys relative to the manifest where they lie below it, so that the folder can move."""
    if folder is None:
        return row
    prefix = folder.as_prefix().uri
    return {key: value.removeprefix(prefix) if key != "prompt" else value for key, value in row.items()}
