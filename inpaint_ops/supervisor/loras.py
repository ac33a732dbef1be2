"""A job's LoRAs on this machine: those of the store are fetched once, and kept by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from inpaint_ops.errors import ConfigError
from inpaint_ops.records import LoraChoice, LoraFile
from inpaint_ops.storage import Storage

LORAS = "inpaint_ops-loras"
"""The folder below the model cache (HF_HOME)."""

MAX_BYTES = 8 * 2**30
"""Of one LoRA; those for SDXL have 6 MB to 1.5 GB."""

_BLOCK = 8 * 2**20


def local_loras(loras: Iterable[LoraChoice], storage: Storage, cache: Path) -> tuple[LoraFile, ...]:
    """Each LoRA as a file of this machine.

    One of the store is downloaded into `cache` as `<SHA-256>.safetensors`, once for each ETag, and found there by every
    later attempt. A user who may write to the cache may replace what is in it, as for models. Raises ConfigError where
    the cache cannot be written, and what the storage raises.
    """
    return tuple(
        LoraFile(name=one.name, path=_fetched(one, storage, cache) if one.is_in_store else one.place, weight=one.weight)
        for one in loras
    )


def _fetched(lora: LoraChoice, storage: Storage, cache: Path) -> str:
    info = storage.stat(lora.place)
    state = f"{info.location} {info.etag} {info.size}"
    note = cache / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.digest"
    with contextlib.suppress(OSError):
        kept = cache / f"{note.read_text(encoding='ascii').strip()[:64]}.safetensors"
        if kept.is_file() and kept.stat().st_size == info.size:
            return str(kept)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
            part = Path(folder) / "lora"
            storage.download(lora.place, part, max_bytes=MAX_BYTES)
            digest = hashlib.sha256()
            with part.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    digest.update(block)
            part.chmod(0o644)
            kept = cache / f"{digest.hexdigest()}.safetensors"
            part.replace(kept)
            mark = Path(folder) / "mark"
            mark.write_text(digest.hexdigest(), encoding="ascii")
            mark.replace(note)
    except OSError as error:
        raise ConfigError(f"the LoRA {lora.place} cannot be kept in {cache}: {error.strerror or error}") from error
    return str(kept)
