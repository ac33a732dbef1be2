"""Rejected rows come back as they were written: correct them, and the file is a manifest."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpaint_ops.config import Settings
from inpaint_ops.locations import parse
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, read_manifest, to_jsonl
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace, prepare

GOOD = {"image": "photos/a.png", "mask": "masks/a.png", "prompt": "a cup"}
WHOLE = {"image": "s3://bucket/inbox/photos/a.png", "mask": "s3://bucket/inbox/masks/a.png", "prompt": "a cup"}


def read(data: bytes | str, name: str = "m.jsonl", **limits: int) -> ParsedManifest:
    return read_manifest(
        data.encode() if isinstance(data, str) else data,
        location=parse(f"s3://bucket/inbox/{name}"),
        is_allowed=lambda place: place.bucket == "bucket",
        limits=ManifestLimits(**limits),
    )


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row).replace("Infinity", "1e999") + "\n" for row in rows)


def written(parsed: ParsedManifest) -> list[dict[str, Any]]:
    """What `rejected.jsonl` holds, read strictly."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    body = to_jsonl(row.as_manifest_row() for row in parsed.rejected)
    return [json.loads(line, parse_constant=refuse) for line in body.splitlines()]


def test_a_rejected_row_keeps_its_own_id_where_it_is_valid_and_nobody_elses() -> None:
    parsed = read(
        lines(
            [
                {**GOOD, "id": "chair", "seed": -1},
                {**GOOD, "id": "a/b"},
                {**GOOD, "id": "cup", "seed": -1},
                {**GOOD, "id": "cup"},
                {**GOOD, "seed": -1, "id": "CHAIR"},
                {**GOOD, "seed": -1, "id": "row-2"},
                {**GOOD, "seed": -1, "id": "a"},
                {**GOOD},
            ]
        )
    )
    assert [row.id for row in parsed.rejected] == ["chair", "row-2-2", "row-3", "row-5", "row-2", "row-7"]
    assert [row.id for row in parsed.accepted] == ["cup", "a"], "a rejected row takes no name from an accepted one"


@pytest.mark.parametrize(
    ("wrong", "correction"),
    [
        ({"seed": -1}, {"seed": 1}),
        ({"promt": "a boat"}, {"promt": None}),
        ({"image": "/etc/passwd"}, {"image": "photos/b.png"}),
        ({"image": ["photos/a.png"]}, {"image": "photos/b.png"}),
        ({"strength": 1e999}, {"strength": 0.5}),
        ({"quality": "best", "steps": 3}, {"steps": None}),
        ({"extra": {"x": [1, {"y": None}]}, "steps": 0}, {"steps": 5}),
    ],
)
def test_a_rejected_row_that_is_corrected_runs(wrong: dict[str, Any], correction: dict[str, Any]) -> None:
    parsed = read(lines([GOOD, {**GOOD, "id": "cup", **wrong}]))
    (row,) = written(parsed)
    assert row["_error"] == parsed.rejected[0].error.message and row["_error"].startswith("row 2: ")
    assert row["id"] == "cup" and row["mask"] == WHOLE["mask"]
    again = read(lines([row | correction]), "rejected.jsonl")
    assert not again.rejected, again.rejected
    assert (again.accepted[0].id, again.accepted[0].mask) == ("cup", WHOLE["mask"])


def test_a_row_that_stays_wrong_has_its_new_error_and_no_more_fields() -> None:
    (once,) = written(read(lines([{**GOOD, "seed": -1}])))
    (twice,) = written(read(lines([{**GOOD, "id": "b"}, once]), "rejected.jsonl"))
    assert twice.pop("_error").startswith("row 2: ") and once.pop("_error").startswith("row 1: ")
    assert once == twice == {**WHOLE, "seed": -1}


def test_a_row_of_a_table_comes_back_with_its_numbers() -> None:
    table = (
        "image,mask,prompt,steps,seed,mask_invert,crop,mask_blur,extra\n"
        'photos/a.png,masks/a.png,a cup,20,-1,true,8,1.5,"{""sku"": 7}"\n'
        "photos/a.png,masks/a.png,a cup,20,1,,,,{\n"
        "photos/a.png,masks/a.png,a,cup,20,1,,,,,x\n"
    )
    first, second, third = written(read(table, "m.csv"))
    assert {key: first[key] for key in ("steps", "seed", "mask_invert", "crop", "mask_blur", "extra")} == {
        "steps": 20, "seed": -1, "mask_invert": True, "crop": 8, "mask_blur": 1.5, "extra": {"sku": 7},
    }  # fmt: skip
    again = read(lines([first | {"seed": 1}, second | {"extra": {}}]))
    assert not again.rejected
    assert (again.accepted[0].steps, again.accepted[1].steps) == (20, 20)
    assert third["_text"] == "photos/a.png,masks/a.png,a,cup,20,1,,,,,x"


def test_a_row_of_a_parquet_file_comes_back_without_the_value_that_cannot_be_read() -> None:
    sink = io.BytesIO()
    columns = {name: [value, value] for name, value in GOOD.items()}
    pq.write_table(pa.table({"seed": pa.array([b"\x00", None], pa.binary()), **columns}), sink)
    parsed = read(sink.getvalue(), "m.parquet")
    (row,) = written(parsed)
    assert row.pop("_error").startswith("row 1: seed: ") and row == WHOLE
    assert not read(lines([row])).rejected


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_a_row_that_cannot_be_taken_apart_is_kept_as_text(name: str) -> None:
    header = "image,mask,prompt\n" if name == "m.csv" else ""
    good = "photos/a.png,masks/a.png,a cup\n" if header else lines([GOOD])
    long = ("photos/a.png,masks/a.png," if header else '{"image": "') + "x" * 100_000
    parsed = read(f"{header}{good}{long}\n", name, max_row_bytes=50_000)
    (row,) = written(parsed)
    assert row["_text"].startswith(long[:4000]) and row["_text"].endswith(f"(cut: the row has {len(long) + 1:,} bytes)")
    assert len(json.dumps(row)) < 70_000 and "INPAINT_MAX_ROW_BYTES" in row["_error"]


@pytest.mark.parametrize(
    "bad", ["{", '["x"]', '{"image": "a", "image": "b"}', '{"x": "\\ud800"}', '{"x": NaN}', "[" * 40_000, '{"x":' * 900]
)
def test_a_line_that_is_no_row_is_kept_as_it_was_written(bad: str) -> None:
    parsed = read(f"{lines([GOOD])}{bad}\n")
    (row,) = written(parsed)
    assert row["_text"].startswith(bad[:1000].rstrip("\n")), row
    assert set(row) == {"_text", "_error"}


def test_a_deep_or_large_row_costs_no_more_than_its_bound() -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    parsed = read(
        lines([{**GOOD, "id": "big", "extra": {"x": "é" * 100_000}, "seed": -1}, {**GOOD, "extra": {"x": deep}}])
    )
    large, nested = written(parsed)
    assert [row.id for row in parsed.rejected] == ["big", "row-2"]
    assert large["_text"].endswith(" bytes)") and len(json.dumps(large, ensure_ascii=False).encode()) < 70_000
    assert nested["image"] == WHOLE["image"] or "_text" in nested


def test_rejected_rows_are_in_the_runs_folder_and_run_again(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = [
        {**GOOD, "id": "one", "seed": -1},
        GOOD,
        {**GOOD, "id": "none", "steps": 1, "strength": 0.5},
    ]
    (tmp_path / "in" / "m.jsonl").write_text(lines(rows) + "{\n")
    settings = Settings(scratch=tmp_path / "scratch")
    workspace = Workspace.open(settings, store=str(tmp_path / "out"), also_readable=[str(tmp_path / "in")])
    job = JobOptions(model="tiny-random")
    prepare(workspace, str(tmp_path / "in" / "m.jsonl"), "night", job)
    layout = workspace.layout("night")
    found = [json.loads(line) for line in workspace.storage.get(layout.rejected).splitlines()]
    assert [row.get("id") for row in found] == ["one", "none", None]
    assert [row["_error"][:6] for row in found] == ["row 1:", "row 3:", "row 4:"]
    for number, row in ((1, found[0]), (3, found[1])):
        record = Record.model_validate_json(workspace.storage.get(layout.record("rejected", number)))
        assert (record.id, record.error and record.error.message) == (row["id"], row["_error"])
    corrected = [found[0] | {"seed": 1}, found[1] | {"steps": 9}]
    (tmp_path / "in" / "corrected.jsonl").write_text(lines(corrected))
    plan = prepare(workspace, str(tmp_path / "in" / "corrected.jsonl"), "again", job)
    assert (plan.rows, plan.rejected) == (2, 0)
    assert [row.image for row in workspace.shard_rows(plan, "00000")] == [str(tmp_path / "in" / "photos/a.png")] * 2
    manifest = workspace.layout("again").manifest
    once_more = prepare(workspace, manifest.uri, "once-more", job)
    assert (once_more.rows, once_more.rejected) == (2, 0), "the frozen manifest of local files is one as well"
    assert workspace.storage.get(workspace.layout("again").rejected) == b""


@pytest.mark.parametrize(("between", "named"), [(";", "semicolon"), ("\t", "tab")])
def test_a_row_with_too_many_cells_is_kept_with_its_own_delimiter(between: str, named: str) -> None:
    rows = [["image", "mask", "prompt"], ["photos/a.png", "masks/a.png", "a cup, red", "on a table"]]
    parsed = read("".join(between.join(cells) + "\n" for cells in rows), "m.csv")
    (row,) = written(parsed)
    assert row["_text"] == between.join(rows[1]) and f"quote a cell that holds a {named}" in row["_error"]


def workbook(*rows: list[Any]) -> bytes:
    book, sink = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(sink)
    return sink.getvalue()


def test_a_row_of_a_workbook_comes_back_with_its_values_and_its_own_id() -> None:
    header = ["id", "image", "mask", "prompt", "seed", "steps", "mask_invert"]
    bad = [7, "photos\\a.png", "masks/a.png", "a cup", -1, 20, "yes"]
    parsed = read(workbook(header, ["b", *bad[1:4], 1, 20, "no"], bad), "m.xlsx")
    (row,) = written(parsed)
    assert (parsed.rejected[0].row, parsed.rejected[0].id) == (3, "7")
    assert row.pop("_error").startswith("row 3: seed: ")
    assert row == WHOLE | {"id": "7", "seed": -1, "steps": 20, "mask_invert": True}
    (again,) = read(lines([row | {"seed": 1}])).accepted
    assert (again.id, again.seed, again.steps, again.mask_invert) == ("7", 1, 20, True)


def test_a_long_row_and_one_with_a_cell_under_no_name_are_kept_as_text_from_a_workbook() -> None:
    good = ["photos/a.png", "masks/a.png", "a cup"]
    data = workbook(["image", "mask", "prompt", None, "seed"], good, [*good[:2], "x" * 9000], [*good, "note", 1])
    long, stray = written(read(data, "m.xlsx", max_row_bytes=5000))
    assert long["_text"].startswith('["photos/a.png", "masks/a.png", "xxx') and "(cut: the row has 9," in long["_text"]
    assert "INPAINT_MAX_ROW_BYTES" in long["_error"]
    assert stray["_text"].startswith("photos/a.png,masks/a.png,a cup,note,1") and "column 4" in stray["_error"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("https://me:pw@h.example/a.png?X-Amz-Signature=pw", "https://h.example/a.png"),
        ("HTTPS://h.example/a,b.png?x=1,2&sig=pw", "HTTPS://h.example/a,b.png"),
        ("https://h.example/to/ftp://me:pw@h/a.png", "https://h.example/to/ftp://h/a.png"),
        ("s3://AKIA:pw@bucket/a.png", "s3://bucket/a.png"),
        ("https://h.example/with space/a.png?sig=pw", "https://h.example/with space/a.png"),
    ],
)
def test_a_rejected_rows_secrets_are_not_kept(value: str, kept: str) -> None:
    """A presigned link or a password in the URL of a row that is rejected for it."""
    parsed = read(lines([{**GOOD, "image": value}, {**GOOD, "mask": value}, {**GOOD, "source": value}]))
    for row, field in zip(written(parsed), ("image", "mask", "source"), strict=True):
        assert row[field] == kept
        assert "password or query of its URL is not kept" in row["_error"]
        assert "pw" not in json.dumps(row)


def test_a_rejected_row_that_is_only_text_keeps_no_secrets() -> None:
    """What is behind the beginning of a query may still be of it, in text that was not taken apart."""
    [row] = written(read('{"image": "s3://u:pw@bucket/what?.png", "mask": "https://h/a.png?sig=pw", "steps": 3'))
    assert row["_text"] == '{"image": "s3://bucket/what?.png", "mask": "https://h/a.png'


@pytest.mark.parametrize("value", ["s3://bucket/what?.png", "file:///what?.png", "what?.png", "50%?://"])
def test_a_question_mark_in_a_key_is_no_query(value: str) -> None:
    [row] = written(read(lines([{**GOOD, "seed": -1, "image": value}])))
    assert row["image"].endswith(value) or "?" not in value
    assert "is not kept" not in row["_error"]
