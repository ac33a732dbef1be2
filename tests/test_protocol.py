"""What the worker and its supervisor say is what the other reads, or it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from inpaint_ops.protocol import MAY_BE_NEGATIVE, Done, Event, Item, Job, Step, dump, parse_command, parse_event
from inpaint_ops.records import Timings

ITEM: dict[str, Any] = {
    "row": 1, "id": "a", "image": "/a", "mask": "/m", "output": "/o", "prompt": "x", "seed": 1, "steps": 2,
    "guidance_scale": 7.5, "strength": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["guidance_scale", "strength", "mask_blur", "steps", "seed", "row"])
def test_no_number_of_an_item_is_nan_or_infinite(field: str, value: str) -> None:
    line = dump(Item(**ITEM | {field: 3}))
    wrong = line.replace(f'"{field}":3.0', f'"{field}":{value}').replace(f'"{field}":3,', f'"{field}":{value},')
    assert wrong != line
    with pytest.raises(ValidationError, match=field):
        parse_command(wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_that_is_no_number_is_refused_where_it_is_made(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Timings(denoise=value)


@given(st.text(), st.text(), st.integers(0, 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
def test_an_item_is_one_line_and_reads_back(prompt: str, negative: str, seed: int, blur: float) -> None:
    item = Item(**ITEM | {"prompt": prompt, "negative_prompt": negative, "seed": seed, "mask_blur": blur})
    line = dump(item)
    assert line.endswith("\n") and len(line.encode().splitlines()) == 1
    assert parse_command(line) == parse_command(line.encode()) == item


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{}",
        b'{"kind":"stop"}',
        b'{"kind":"end","more":1}',
        b'{"kind":"end"} {"kind":"end"}',
        b'{"kind":"end"',
        b'{"kind":"\xff"}',
        b'{"kind":"job","model":"\\ud800","scratch":"s"}',
        b'{"kind":"job","model":"m","scratch":"s","tuning_overrides":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"kind":"job","model":"m","scratch":"s","prompts":[' + b'"x",' * 1024 + b'"x"]}',
    ],
)
def test_a_line_that_is_no_command_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        parse_command(line)
    with pytest.raises(ValidationError):
        parse_event(line)


def test_commands_are_no_events_and_events_no_commands() -> None:
    with pytest.raises(ValidationError):
        parse_event(dump(Job(model="m", scratch="s")))
    with pytest.raises(ValidationError):
        parse_command(dump(Step(step=1, steps=2)))


DONE: dict[str, Any] = {
    "kind": "done", "row": 1, "output": "/o", "sha256": "0" * 64, "bytes": 1, "width": 8, "height": 8, "format": "png",
    "media_type": "image/png", "extension": ".png", "steps": 2, "working_size": [8, 8],
    "batch": {"id": "1", "size": 1}, "memory": {"peak_allocated": 1, "peak_reserved": 1},
    "started_at": "2026-03-01T00:00:00Z", "finished_at": "2026-03-01T00:00:01Z",
}  # fmt: skip


def test_each_field_whose_type_allows_a_number_below_zero_is_let_through() -> None:
    schema = TypeAdapter(Event).json_schema()
    found: set[str] = set()

    def look(part: Any, field: str) -> None:
        if isinstance(part, list):
            for one in part:
                look(one, field)
        elif isinstance(part, dict):
            lowest = part.get("minimum", part.get("exclusiveMinimum"))
            if part.get("type") in ("number", "integer") and (lowest is None or lowest < 0):
                found.add(field)
            for name, properties in part.items():
                if name == "properties":
                    for each, its in properties.items():
                        look(its, each)
                else:
                    look(properties, field)

    look(schema, "")
    assert found == MAY_BE_NEGATIVE - {"tuning"}, "a tuning holds values of any type"


def test_a_score_below_zero_is_one_of_a_finished_picture() -> None:
    event = parse_event(json.dumps(DONE | {"measures": {"clip": -0.003, "models": {"clip": "clip 9d9ac84eb955f5f2"}}}))
    assert isinstance(event, Done) and event.measures is not None and event.measures.clip == -0.003


def test_a_shift_may_be_negative_and_nothing_else_of_a_finished_picture() -> None:
    how = {"blend": "poisson", "match": "mean", "shift": [-3.5, 0, 24], "seams": {"hard": 2.0}, "grain_added": 1.5}
    region = {"box": [0, 0, 8, 8], "working_size": [8, 8], "joining": how}
    event = parse_event(json.dumps(DONE | {"joining": how, "regions": [region], "measures": {"seam_contrast": 1.1}}))
    assert isinstance(event, Done) and event.joining is not None and event.joining.shift == (-3.5, 0, 24)
    assert event.regions[0].joining.shift == (-3.5, 0, 24)
    for wrong in (
        {"joining": how | {"shift": [-256.0]}},
        {"joining": how | {"grain_added": -1}},
        {"joining": how | {"seams": {"hard": 1e6}}},
        {"measures": {"seam_contrast": -1}},
        {"measures": {"flatness": 1.5}},
        {"regions": [region] * 65},
    ):
        with pytest.raises(ValidationError):
            parse_event(json.dumps(DONE | wrong))
