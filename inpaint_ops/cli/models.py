"""inpaint-ops models pull | list | verify."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from inpaint_ops.cli.options import as_command, json_option
from inpaint_ops.cli.terminal import say, say_json
from inpaint_ops.config import load_settings
from inpaint_ops.model.cache import cache_home


@click.group()
def models() -> None:
    """The model cache: fetch, list, verify."""


@models.command("pull")
@click.argument("model", required=False)
@click.option("--revision", help="The hub commit or tag.")
@as_command
def models_pull(model: str | None, revision: str | None) -> None:
    """Fetch MODEL (default: INPAINT_MODEL) into the cache (HF_HOME), or build a random one there, and verify it."""
    from inpaint_ops.model.sources import pull

    settings = load_settings()
    name = model or settings.model
    folder = pull(name, revision or settings.model_revision, on_progress=lambda line: say(line, err=True))
    say(f"{name}: {folder}")


@models.command("list")
@json_option
@as_command
def models_list(as_json: bool) -> None:
    """List the models in the cache (HF_HOME) and what compiled graphs take there. Exit code 2 if one is not whole."""
    from inpaint_ops.model.compiled import kept
    from inpaint_ops.model.sources import cached_models

    found = cached_models()
    graphs = kept(cache_home())
    if as_json:
        rows = [
            {"name": one.name, "revision": one.revision, "folder": str(one.folder), "bytes": one.bytes,
             "variant": one.variant, "random_weights": one.random, "whole": not one.problem, "problem": one.problem}
            for one in found
        ]  # fmt: skip
        say_json({"models": rows, "compiled": graphs})
    else:
        for one in found:
            kind = "random weights" if one.random else one.variant or "plain"
            state = f"NOT WHOLE: {one.problem}" if one.problem else "whole"
            say(f"{one.name}  {one.revision}  {one.bytes / 1e9:.2f} GB  {kind}  {state}")
        if not found:
            say(f"no models in {cache_home()}: inpaint-ops models pull")
        for name, size in graphs.items():
            say(f"compiled graphs  {name}  {size / 1e9:.2f} GB")
    if any(one.problem for one in found):
        sys.exit(2)


@models.command("verify")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@as_command
def models_verify(folder: Path) -> None:
    """Check that FOLDER holds a whole SDXL inpainting model in safetensors, and the one that was published."""
    from inpaint_ops.model.verifying import check_published, verify

    check_published(verify(folder))
    say(f"{folder}: whole")
