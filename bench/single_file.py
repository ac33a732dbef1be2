"""What a model in one file costs, beside its folder: `python -m bench.single_file FOLDER`, at SDXL's full size.

Writes SDXL's layers with random weights in float16 into FOLDER (7 GB as a file, 7 GB as a folder; 12 GB of memory),
reads both, and compares every weight. A page cache that holds the files is what a second worker meets.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

from inpaint_ops.device import describe
from inpaint_ops.model.loading import LoadedModel, load
from inpaint_ops.model.random_weights import byte_tokenizer, instantiate
from inpaint_ops.model.single_file import check
from inpaint_ops.model.sources import find, resolve
from inpaint_ops.model.tokenizers import PAD_TOKENS
from inpaint_ops.tuning import Tuning
from tests.support import single_files

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def main() -> None:
    """Write, read, compare; print seconds as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.single_file", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="sdxl-random")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    file, folder = given.folder / "model.safetensors", given.folder / "model"
    if not file.exists():
        pipe = instantiate(given.model, "cpu", torch.float16)
        pipe.save_pretrained(str(folder), variant="fp16")
        single_files.write(pipe, file)
        del pipe
    tokenizer = given.folder / "tokenizers"
    for name, pad in zip(("tokenizer", "tokenizer_2"), PAD_TOKENS, strict=True):
        byte_tokenizer(pad).save_pretrained(str(_made(tokenizer / name)))
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    source = resolve(str(file), tokenizer=str(tokenizer))
    seconds["header"] = -clock + (clock := time.perf_counter())
    assert source.checkpoint is not None
    check(source.checkpoint)
    seconds["every name and shape"] = -clock + (clock := time.perf_counter())
    cache = _made(given.folder / "cache")
    find(source, dtype="float16", cache=cache)
    seconds["SHA-256, once per file"] = -clock + (clock := time.perf_counter())
    find(source, dtype="float16", cache=cache)
    seconds["the same, noted"] = -clock + (clock := time.perf_counter())
    _drop(file)
    of_file = _load(str(file), cache, seconds, "file", str(tokenizer))
    _drop(*folder.rglob("*.safetensors"))
    of_folder = _load(str(folder), cache, seconds, "folder")
    for part in PARTS:
        one, other = (getattr(model.pipe, part).state_dict() for model in (of_file, of_folder))
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items()), part
    print(
        json.dumps({"bytes": file.stat().st_size, "seconds": {key: round(value, 2) for key, value in seconds.items()}})
    )


def _load(model: str, cache: Path, seconds: dict[str, float], name: str, tokenizer: str | None = None) -> LoadedModel:
    found = find(resolve(model, cache=cache, tokenizer=tokenizer), dtype="float16", cache=cache)
    loaded = load(found, describe("cpu"), Tuning(dtype="float16"))
    seconds |= {f"{name}: {part}": value for part, value in loaded.seconds.items()}
    return loaded


def _drop(*files: Path) -> None:
    """Have the page cache forget what it holds of `files`."""
    for path in files:
        with path.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
