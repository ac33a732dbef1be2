"""The examples of docs/manifest.md do what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from inpaint_ops.cli import main
from inpaint_ops.locations import parse
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, read_manifest
from inpaint_ops.runs.selecting import parse_selection

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "manifest.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def read(text: str, name: str) -> ParsedManifest:
    return read_manifest(
        text.encode(), location=parse(f"s3://b/in/{name}"), is_allowed=lambda place: True, limits=ManifestLimits()
    )


def test_the_table_gives_the_rows_of_the_lines() -> None:
    lines, (table,) = blocks("jsonl")[0], blocks("csv")
    assert lines.startswith('{"image": "photos/sofa.jpg"')
    first, second = read(lines, "m.jsonl"), read(table, "m.csv")
    assert not first.rejected and not second.rejected
    assert [row.model_dump(exclude={"row"}) for row in first.accepted] == [
        row.model_dump(exclude={"row"}) for row in second.accepted
    ]
    assert [row.id for row in first.accepted] == ["sofa", "lamp-7"]


@pytest.mark.parametrize(
    ("field", "written", "value"),
    [("steps", "20.0", 20), ("steps", "20", 20), ("id", "7.0", "7"), ("crop", "auto", "auto"), ("crop", "64", 64),
     ("extra", '"{""sku"": 7}"', {"sku": 7}), ("seed", "", None)],
)  # fmt: skip
def test_a_cell_is_read_as_the_page_says(field: str, written: str, value: object) -> None:
    parsed = read(f"image,mask,prompt,{field}\na.png,b.png,x,{written}\n", "m.csv")
    assert not parsed.rejected and getattr(parsed.accepted[0], field) == value


def test_the_folders_give_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree,) = blocks("text")
    for name in tree.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"`inpaint-ops (manifest photos masks --prompt \"a linen sofa\" -o job\.jsonl)`", PAGE)
    result = CliRunner().invoke(main, [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', command)])
    assert result.exit_code == 3 and "vase.jpg" in result.output
    made = [json.loads(line) for line in (tmp_path / "job.jsonl").read_text().splitlines()]
    assert made == [json.loads(line) for line in blocks("jsonl")[1].splitlines()]


def test_every_option_on_the_page_is_one_and_every_selection_can_be_asked_for() -> None:
    known = {
        name
        for command in main.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", PAGE))
    assert len(named) > 8 and named <= known, named - known
    asked = re.findall(r"--retry ([\w,:-]+)", PAGE)
    assert len(asked) >= 4
    for selection in asked:
        parse_selection(selection)
