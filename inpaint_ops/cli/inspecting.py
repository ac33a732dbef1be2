"""inpaint-ops inspect: what an image file is, and what it says of its making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from inpaint_ops import images
from inpaint_ops.cli.options import as_command, json_option
from inpaint_ops.cli.terminal import say, say_json
from inpaint_ops.config import load_settings
from inpaint_ops.errors import one_line
from inpaint_ops.signing import read_credentials

_CHANNELS = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGBA"}


@click.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@as_command
def inspect(image: Path, as_json: bool) -> None:
    """Tell what the file IMAGE is, how it would be read, and what it says of its making.

    Exit code 1 if it cannot be read.
    """
    data = image.read_bytes()
    found = look(data, load_settings().max_pixels)
    credentials = read_credentials(data, f"image/{found['format']}")
    found["c2pa"] = credentials or "no Content Credentials"
    if as_json:
        say_json(found)
        return
    for name, value in found.items():
        for part in value if isinstance(value, list) else value.items() if isinstance(value, dict) else [value]:
            text = f"{part[0]}: {part[1]}" if isinstance(part, tuple) else str(part)
            say(f"{name:11}  {one_line(text)}")


def look(data: bytes, max_pixels: int) -> dict[str, Any]:
    """What `inspect` says of a file's bytes, in JSON's types. Raises ImageError."""
    source = images.decode_source(data, max_pixels=max_pixels, metadata="keep", frames="first")
    channels = 1 if source.pixels.ndim == 2 else source.pixels.shape[2]
    return {
        "format": source.format,
        "size": f"{source.width}x{source.height}",
        "pixels": f"{_CHANNELS[channels]}, {source.pixels.dtype.itemsize * 8} bits",
        "icc": f"{len(source.icc)} bytes" if source.icc else "none",
        "resolution": "{:.0f}x{:.0f} dpi".format(*source.metadata.resolution) if source.metadata.resolution else "none",
        "making": images.read_mark(source.metadata) or "nothing is said of a model's work",
        "reading": list(source.conversions) or ["as it stands"],
    }
