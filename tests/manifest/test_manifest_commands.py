"""The commands that make and check manifests: nothing is left out in silence, and validate, plan and run agree."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from inpaint_ops.cli.main import main


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("photos/a.png", "masks/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def pair_up(root: Path, *more: object) -> Result:
    return command("manifest", root / "photos", root / "masks", "--prompt", "x", "-o", root / "job.jsonl", *more)


def test_links_and_names_that_are_not_utf8_are_named_and_the_others_paired(
    folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "x.png").write_bytes(b"x")
    for name in ("photos", "masks"):
        (folders / name / "b.png").symlink_to(elsewhere / "x.png")
        (folders / name / "sub").symlink_to(elsewhere)
        (Path(os.fsdecode(os.fsencode(folders / name) + b"/caf\xe9.png"))).write_bytes(b"x")
    done = pair_up(folders)
    assert done.exit_code == 3
    assert len((folders / "job.jsonl").read_text().splitlines()) == 1
    for words in ("it is not followed", "--allow", "not UTF-8", "1 rows"):
        assert words in done.stderr
    allowed = pair_up(folders, "--allow", os.path.commonpath([folders, elsewhere]))
    assert len((folders / "job.jsonl").read_text().splitlines()) == 2, allowed.stderr


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    done = pair_up(tmp_path)
    assert done.exit_code == 2
    assert "there is no folder" in done.stderr
    assert not (tmp_path / "job.jsonl").exists()


def test_prompts_are_read_from_wherever_the_user_says(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    prompts = tmp_path_factory.mktemp("elsewhere") / "p.csv"
    prompts.write_text("image;prompt\na.png;a wall\nz.png;none\n")
    done = command("manifest", folders / "photos", folders / "masks", "--prompts", prompts)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["prompt"] == "a wall"
    assert "a prompt without an image: z.png" in done.stderr


def test_validate_and_plan_reject_the_same_rows(folders: Path) -> None:
    manifest = folders / "job.jsonl"
    row = {"image": "photos/a.png", "mask": "masks/a.png", "prompt": "x"}
    manifest.write_text(json.dumps({**row, "steps": 1}) + "\n")
    for name in ("validate", "plan"):
        done = command(name, manifest)
        assert done.exit_code == 3, name
        assert "leave no denoising step" in done.output, name
    assert command("plan", manifest, "--json").exit_code == 3
    manifest.write_text(json.dumps(row) + "\n")
    assert command("validate", manifest).exit_code == command("plan", manifest).exit_code == 0
    assert command("validate", manifest, "--steps", 1).exit_code == 3
