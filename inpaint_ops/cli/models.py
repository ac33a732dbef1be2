"""inpaint-ops models pull | list | verify | convert."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from inpaint_ops.cli.options import as_command, json_option
from inpaint_ops.cli.terminal import say, say_json
from inpaint_ops.config import load_settings
from inpaint_ops.errors import ModelError
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
    from inpaint_ops.model.pulling import pull

    settings = load_settings()
    name = model or settings.model
    folder = pull(name, revision or settings.model_revision, on_progress=lambda line: say(line, err=True))
    say(f"{name}: {folder}")


@models.command("list")
@json_option
@as_command
def models_list(as_json: bool) -> None:
    """List the models in the cache (HF_HOME) and what compiled graphs take there. Exit code 2 if one is not whole."""
    from inpaint_ops.model.cached_models import cached_models
    from inpaint_ops.model.compiled import kept

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
@click.argument("place", metavar="FOLDER|FILE", type=click.Path(exists=True, path_type=Path))
@as_command
def models_verify(place: Path) -> None:
    """Check that FOLDER or FILE is a whole SDXL model in safetensors, and the one that was published."""
    from inpaint_ops.model.verifying import check_published, verify, verify_file

    if place.is_dir():
        check_published(verify(place))
        say(f"{place}: whole")
        return
    from inpaint_ops.model.single_file import check

    found = verify_file(place)
    if found.checkpoint is not None:
        check(found.checkpoint)
    say(f"{place}: whole, SHA-256 {found.digest}")


@models.command("convert")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), help="The folder of an SDXL model, or its tokenizer's.")
@as_command
def models_convert(file: Path, folder: Path, tokenizer: Path | None) -> None:
    """Make a diffusers folder, FOLDER, of the SDXL model in FILE, a .safetensors file; it keeps its 16 or 32 bits."""
    from inpaint_ops.model.checkpoints import is_file_name
    from inpaint_ops.model.sources import resolve
    from inpaint_ops.model.verifying import verify

    given = tokenizer or load_settings().tokenizer
    if not is_file_name(str(file)):
        raise ModelError(f"{file} is no .safetensors file: name one")
    source = resolve(str(file), tokenizer=given and str(given))
    assert source.checkpoint is not None and source.tokenizers is not None
    from inpaint_ops.model.single_file import convert  # torch, once the file is known to be a model

    verify(convert(source.checkpoint, source.tokenizers, folder), dtype="float32")
    way = "an inpainting model" if source.checkpoint.channels == 9 else "plain SDXL"
    say(f"{folder}: {way}, {sum(one.stat().st_size for one in folder.rglob('*.safetensors')) / 1e9:.2f} GB")
