"""The rows: photos of one size with masks, in a bucket, and among them some that cannot be done."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = (1200, 900)
"""Width and height of each source, in pixels."""

Put = Callable[[str, bytes], object]


@dataclass(frozen=True)
class Job:
    """The manifest's rows, and which of them are broken: why, by id."""

    rows: list[dict[str, object]]
    broken: dict[str, str]

    @property
    def manifest(self) -> bytes:
        """The rows as JSON lines, keys relative to the manifest."""
        return "".join(json.dumps(row) + "\n" for row in self.rows).encode()


def make(put: Put, *, rows: int, broken: int) -> Job:
    """Put `rows` photos and masks, the broken ones spread among them; `put` takes a key and bytes."""
    job = Job([], {})
    places = {round((number + 0.5) * rows / broken): number for number in range(broken)} if broken else {}
    for row in range(rows):
        name = f"photo-{row:04d}"
        files: dict[str, bytes | None] = {f"{name}.jpg": _photo(row), f"{name}-mask.png": _mask(row)}
        if row in places:
            why, key, breaking = _BREAKS[places[row] % len(_BREAKS)]
            at = f"{name}{key}"
            files[at] = breaking(files[at] or b"")
            job.broken[name] = why
        for key, body in files.items():
            if body is not None:
                put(key, body)
        job.rows.append(
            {"id": name, "image": f"{name}.jpg", "mask": f"{name}-mask.png", "prompt": f"a wall {row}", "seed": row}
        )
    return job


def source(row: int) -> np.ndarray:
    """The pixels of a photo, as its file holds them: (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(_photo(row))).convert("RGB"))


def mask(row: int) -> np.ndarray:
    """Which pixels are to be painted: (H, W) bool."""
    across, down = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    x, y = 300 + 37 * row % 600, 250 + 53 * row % 400
    return np.asarray((across - x) ** 2 + (down - y) ** 2 < 150**2)


def _photo(row: int) -> bytes:
    noise = np.random.default_rng(row)
    across, down = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]))
    waves = [np.sin(noise.uniform(2, 30) * across + noise.uniform(2, 30) * down) for _ in range(3)]
    pixels = 128 + 90 * np.stack(waves, axis=-1) + noise.normal(0, 3, (SIZE[1], SIZE[0], 1))
    sink = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(sink, "JPEG", quality=92)
    return sink.getvalue()


def _mask(row: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(mask(row).astype(np.uint8) * 255).save(sink, "PNG")
    return sink.getvalue()


def _claims_to_be_huge(png: bytes) -> bytes:
    """A PNG whose header says 30,000 x 30,000 pixels."""
    header = png[12:16] + (30_000).to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


_BREAKS: tuple[tuple[str, str, Callable[[bytes], bytes | None]], ...] = (
    ("the image is not there", ".jpg", lambda body: None),
    ("the image is cut off", ".jpg", lambda body: body[: len(body) // 2]),
    ("the image is a web page", ".jpg", lambda body: b"<html>404 not found</html>"),
    ("the mask is not there", "-mask.png", lambda body: None),
    ("the image is empty", ".jpg", lambda body: b""),
    ("the mask is cut off", "-mask.png", lambda body: body[: len(body) // 2]),
    ("the mask says it has 900 megapixels", "-mask.png", _claims_to_be_huge),
    ("the mask is black: nothing to paint", "-mask.png", lambda body: _plain(0)),
    ("the mask is of another shape", "-mask.png", lambda body: _plain(255, (400, 900))),
    ("the mask is white: all is painted", "-mask.png", lambda body: _plain(255)),
)
"""Why, which of the row's files, and what becomes of its bytes. The last three can be painted, by mistake."""


def _plain(level: int, size: tuple[int, int] = SIZE) -> bytes:
    sink = io.BytesIO()
    Image.new("L", size, level).save(sink, "PNG")
    return sink.getvalue()
