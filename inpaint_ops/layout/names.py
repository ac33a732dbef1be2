"""What runs, shards, records, variants and files beside an image are called, and the same read back."""

from __future__ import annotations

import re
from typing import Literal

from inpaint_ops.config import SideProduct
from inpaint_ops.errors import ConfigError

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,149}")


def check_run_name(run: str) -> str:
    """Return `run`, or raise ConfigError: letters, digits and `._+-`, at most 150 of them."""
    if not _RUN_NAME.fullmatch(run) or ".." in run:
        raise ConfigError(
            f"run name {run!r}: use letters, digits and '._+-', at most 150, starting with one of the first two"
        )
    return run


def run_name_from(text: str) -> str:
    """A run name made of `text`: each forbidden character becomes `_`."""
    name = re.sub(r"[^A-Za-z0-9._+-]+|\.{2,}", "_", text).lstrip("._+-")[:150]
    return check_run_name(name or "run")


SHARD_NAME = r"[0-9]{5,9}(?:r[0-9]{4}_[0-9a-f]{8})?"
"""What a shard may be called, as a regular expression: `00000`, or `00000r0001_1f2e3d4c` for one of the first retry."""

REJECTED = "rejected"
"""The shard name under which rejected rows' records are kept."""

MAX_RETRIES = 999
"""Of a run; what a report looks at is bounded by it."""
_RETRY_SHARD = re.compile(r"[0-9]{5,9}r([0-9]{4})_[0-9a-f]{8}")
_RECORD = re.compile(rf"({SHARD_NAME}|rejected)/([0-9]{{7,10}})\.json")


def record_place(name: str) -> tuple[str, int] | None:
    """The shard and the row of a record by its name below `records/`; None for a name that no record has."""
    found = _RECORD.fullmatch(name)
    if found is None or name != f"{found[1]}/{int(found[2]):07d}.json":
        return None
    return found[1], int(found[2])


def shard_name(index: int) -> str:
    """`00000`, `00001`, ..."""
    return f"{index:05d}"


def retry_shard_name(index: int, retry: int, nonce: str) -> str:
    """The name of a retry's shard. `nonce` has 8 hexadecimal digits: two who plan a retry at once have one each."""
    return f"{shard_name(index)}r{retry:04d}_{nonce}"


def retry_of(shard: str) -> int:
    """The number of the retry that a shard belongs to, from 1; 0 for a shard of the run itself and for `REJECTED`."""
    found = _RETRY_SHARD.fullmatch(shard)
    return int(found[1]) if found else 0


def variant_name(name: str, variant: int | None) -> str:
    """What one of a row's variants is called: `chair.2`. None: the row has no variants, and its own name."""
    return name if variant is None else f"{name}.{variant}"


SIDE_PRODUCT_FORMATS: dict[SideProduct, Literal["png", "webp"]] = {"patch": "png", "mask": "png", "preview": "webp"}


def side_product_name(image: str, kind: SideProduct) -> str:
    """What a file beside an image is called: `chair.png` has the patch `chair.png.patch.png`."""
    return f"{image}.{kind}.{SIDE_PRODUCT_FORMATS[kind]}"
