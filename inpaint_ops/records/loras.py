"""The LoRAs of a job: as its user names them, as files on a machine, and as a report names them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from inpaint_ops.records.base import Model, Number

MAX_LORAS = 16
MAX_WEIGHT = 20.0
"""Either way: few-step LoRAs have 1, sliders up to 10."""

_WEIGHT = re.compile(r":([+-]?(?:\d+(?:\.\d*)?|\.\d+))$")
_ROW_WEIGHT = re.compile(r":\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)$", re.IGNORECASE)
_NAMED = re.compile(r"([A-Za-z0-9][\w.+-]*)=(.+)", re.DOTALL)
_NAME = r"^[\w.+ -]+$"

Weight = Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)]


class LoraChoice(Model):
    """One LoRA of a job. `place` is a path on the machines that paint, or a URI of the store."""

    name: str = Field(max_length=120, description="What rows call it; default: the file's stem.")
    place: str = Field(min_length=1)
    weight: Weight = 1.0

    @field_validator("name")
    @classmethod
    def _rows_can_write_it(cls, value: str) -> str:
        if not re.fullmatch(_NAME, value):
            raise ValueError(
                f"a LoRA's name has letters, digits, spaces and `_.+-`, {value[:60]!r} has others: name it, NAME=PATH"
            )
        if value.lower() == "none":
            raise ValueError("a LoRA cannot be called `none`, which rows say for no LoRA: name it, NAME=PATH")
        return value

    @property
    def is_in_store(self) -> bool:
        """Whether it is fetched from the store before a worker starts."""
        return "://" in self.place


class LoraFile(Model):
    """One LoRA as a worker gets it: `path` is on its machine."""

    name: str = Field(pattern=_NAME, max_length=120)
    path: str
    weight: Weight = 1.0


class LoraIdentity(Model):
    """One LoRA that a worker had loaded."""

    name: str
    weight: Number = Field(description="The job's; rows may say another.")
    digest: str = Field(description="The SHA-256 of its file.")


def parse_lora(text: object) -> object:
    """`PATH`, `PATH:WEIGHT`, `NAME=PATH` or `NAME=PATH:WEIGHT` to what LoraChoice is made of; else as it is."""
    if not isinstance(text, str):
        return text
    named = _NAMED.fullmatch(text.strip())
    name, rest = (named[1], named[2]) if named else ("", text.strip())
    weight = _WEIGHT.search(rest)
    place = rest[: weight.start()] if weight else rest
    stem = PurePosixPath(place.rstrip("/")).name
    chosen = {"name": name or stem.removesuffix(".safetensors"), "place": place}
    return chosen | ({"weight": float(weight[1])} if weight else {})


def parse_loras(value: object) -> object:
    """A list of what `parse_lora` reads, or one text with commas between."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    return tuple(map(parse_lora, value)) if isinstance(value, list | tuple) else value


Loras = Annotated[tuple[LoraChoice, ...], BeforeValidator(parse_loras), Field(max_length=MAX_LORAS)]
"""The LoRAs of a job, in their order."""


def check_names(loras: Iterable[LoraChoice]) -> None:
    """Raise ValueError where two LoRAs have one name."""
    seen: dict[str, str] = {}
    for one in loras:
        if one.name in seen:
            raise ValueError(
                f"two LoRAs are called {one.name!r} ({seen[one.name]}, {one.place}): name one of them, NAME={one.place}"
            )
        seen[one.name] = one.place


def read_row_loras(value: object) -> list[str] | None:
    """What a row says of LoRAs, as texts `NAME` or `NAME:WEIGHT`: None is the job's own, [] is none of them.

    Taken are `"brand:0.8, style"`, a list of such texts, an object of weights (also as JSON in a text; null: not used),
    and `"none"`. Raises ValueError.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.startswith(("{", "[")):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                raise ValueError("is no JSON that can be read") from None
        else:
            value = [] if text.lower() == "none" else [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(value, dict):
        given = {name: weight for name, weight in value.items() if weight is not None}
        if any(isinstance(one, bool) or not isinstance(one, int | float) for one in given.values()):
            raise ValueError("the weights of an object are numbers")
        value = [f"{name}:{float(weight)!r}" for name, weight in given.items()]
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError('write "NAME:WEIGHT, NAME", a list of such texts, an object of weights, or "none"')
    if len(value) > MAX_LORAS:
        raise ValueError(f"names {len(value)} LoRAs, at most {MAX_LORAS} are taken")
    names = set()
    for part in value:
        name, weight = parse_row_lora(part)
        if not re.fullmatch(_NAME, name):
            raise ValueError(f"{part[:60]!r} names no LoRA: write NAME or NAME:WEIGHT")
        if weight is not None and not abs(weight) <= MAX_WEIGHT:
            raise ValueError(f"the weight of {name!r} is a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
        if name in names:
            raise ValueError(f"names {name!r} twice: leave one out")
        names.add(name)
    return list(value)


def parse_row_lora(text: str) -> tuple[str, float | None]:
    """`NAME` or `NAME:WEIGHT` as name and weight; None is the job's own weight."""
    weight = _ROW_WEIGHT.search(text.strip())
    return (text.strip()[: weight.start()], float(weight[1])) if weight else (text.strip(), None)
