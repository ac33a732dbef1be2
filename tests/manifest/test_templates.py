"""A job's own prompt: for rows that have none, with their fields; what a row lacks is named, and nothing is guessed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import parse
from inpaint_ops.manifest import ParsedManifest, RowDefaults, read_manifest
from inpaint_ops.planning import job_options

ROW = {"image": "a.png", "mask": "b.png"}


def read(rows: list[dict[str, Any]], prompt: str | None = None, negative: str | None = None) -> ParsedManifest:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return read_manifest(
        data, location=parse("s3://b/job.jsonl"), is_allowed=lambda _: True, defaults=RowDefaults(prompt, negative)
    )


def prompts(parsed: ParsedManifest) -> list[str]:
    return [row.prompt for row in parsed.accepted]


@pytest.mark.parametrize(
    ("template", "more", "expected"),
    [
        ("a linen sofa", {}, "a linen sofa"),
        ("a {color} sofa", {"color": "red"}, "a red sofa"),
        ("a {color} sofa", {"extra": {"color": "red"}}, "a red sofa"),
        ("a {color} sofa, {extra.style}", {"color": "red", "extra": {"style": "modern"}}, "a red sofa, modern"),
        ("{extra.a.b}", {"extra": {"a": {"b": 7}}}, "7"),
        ("seed {seed}, {steps} steps", {"seed": 3, "steps": 20}, "seed 3, 20 steps"),
        ("{{braces}} {color}", {"color": "red"}, "{braces} red"),
        ("", {}, ""),
        ("a {color} sofa", {"color": "{extra.x}"}, "a {extra.x} sofa"),
    ],
)
def test_a_row_without_a_prompt_gets_the_jobs(template: str, more: dict[str, Any], expected: str) -> None:
    parsed = read([ROW | more], template)
    assert not parsed.rejected, parsed.rejected[0].error.message
    assert prompts(parsed) == [expected]


def test_a_rows_own_text_stays_and_an_empty_one_is_one() -> None:
    parsed = read([ROW | {"prompt": "mine"}, ROW | {"prompt": ""}, ROW | {"prompt": None}, ROW], "the job's", "blurry")
    assert prompts(parsed) == ["mine", "", "the job's", "the job's"]
    assert [row.negative_prompt for row in parsed.accepted] == ["blurry"] * 4


def test_without_a_jobs_prompt_a_row_must_have_one() -> None:
    (bad,) = read([ROW]).rejected
    assert bad.error.message == "row 1: prompt: the field is missing: write it into the row, or give the job one"


@pytest.mark.parametrize(
    "more", [{}, {"color": None}, {"color": ["red"]}, {"color": True}, {"extra": {"colour": "red"}}]
)
def test_a_row_that_lacks_what_the_template_names_is_rejected_with_the_cure(more: dict[str, Any]) -> None:
    parsed = read([ROW | more, ROW | {"prompt": "its own", "color": "red"}], "a {color} sofa")
    assert prompts(parsed) == ["its own"]
    (bad,) = parsed.rejected
    assert "{color}" in bad.error.message and "or a prompt of its own" in bad.error.message
    assert "row 1" in bad.error.message


def test_a_column_that_the_template_names_is_kept_in_extra_and_others_are_unknown() -> None:
    parsed = read([ROW | {"color": "red"}, ROW | {"color": "red", "size": "L"}], "a {color} sofa")
    assert [row.extra for row in parsed.accepted] == [{"color": "red"}]
    assert "unknown field 'size'" in parsed.rejected[0].error.message


def test_a_table_has_columns_for_its_template() -> None:
    parsed = read_manifest(
        b"image,mask,color\na.png,b.png,red\nc.png,d.png,\n", location=parse("s3://b/job.csv"),
        is_allowed=lambda _: True, defaults=RowDefaults("a {color} sofa"),
    )  # fmt: skip
    assert prompts(parsed) == ["a red sofa"]
    assert [row.row for row in parsed.rejected] == [2] or len(parsed.rejected) == 1


def test_the_filled_prompt_stands_in_the_row_so_that_it_is_not_filled_again() -> None:
    (row,) = read([ROW | {"color": "red"}], "a {color} sofa").accepted
    again = row.as_manifest_row()
    assert again["prompt"] == "a red sofa"
    assert prompts(read([again], "a {color} chair")) == ["a red sofa"]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("a {color sofa", "braces"),
        ("a color} sofa", "braces"),
        ("{}", "names no field"),
        ("{0}", "names no field"),
        ("{color!r}", "names no field"),
        ("{color:>9}", "names no field"),
        ("{color[0]}", "names no field"),
        ("{color.__class__}", "only extra has parts"),
        ("{prompt}, in autumn", "rows that have none"),
    ],
)
def test_what_is_no_template_is_refused_before_any_row(template: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^prompt: .*{why}"):
        job_options(Settings(), prompt=template)


def test_a_jobs_texts_are_a_part_of_a_runs_identity() -> None:
    one, other = (job_options(Settings(), prompt=text).identity() for text in ("a", "b"))
    assert one != other


def test_rows_that_name_no_format_get_the_jobs() -> None:
    rows = [ROW | {"prompt": "x"}, ROW | {"prompt": "x", "format": "png"}, ROW | {"prompt": "x", "format": None}]
    rows[0]["image"] = "a.webp"
    job = job_options(Settings(), format="source")
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    parsed = read_manifest(
        data, location=parse("s3://b/job.jsonl"), is_allowed=lambda _: True, defaults=job.row_defaults()
    )
    assert [row.output_format for row in parsed.accepted] == ["webp", "png", "png"]
    assert [row.as_manifest_row()["format"] for row in parsed.accepted] == ["source", "png", "source"]
    plain = read(rows)
    assert [row.output_format for row in plain.accepted] == ["png", "png", "png"]
    assert ["format" in row.as_manifest_row() for row in plain.accepted] == [False, True, False]
    assert job_options(Settings(format="avif")).format == "avif"
    with pytest.raises(ConfigError, match="format"):
        job_options(Settings(), format="bmp")
