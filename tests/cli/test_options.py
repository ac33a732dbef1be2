"""What a job is made of, as the command line gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.cli.options import job_of
from inpaint_ops.config import Settings


def chosen(**options: Any) -> dict[str, Any]:
    return {"overrides": (), "batch_size": None, **options}


def test_files_are_meant_from_the_folder_that_the_command_is_given_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has a folder of its own: `--model sofa.safetensors` would name nothing there."""
    (tmp_path / "models" / "sofa").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    job = job_of(
        Settings(vae="vae-fix"),
        chosen(
            model="sofa.safetensors",
            tokenizer="../tokenizer",
            fill_model="~/lama.onnx",
            loras=("brand.safetensors:0.8", "style=s3://bucket/s.safetensors", "own=/l/o.safetensors"),
        ),
    )
    assert job.model == str(tmp_path / "sofa.safetensors") and job.vae == str(tmp_path / "vae-fix")
    assert job.tokenizer == str(tmp_path.parent / "tokenizer") and job.fill_model == str(tmp_path / "home/lama.onnx")
    assert [(one.name, one.place) for one in job.loras] == [
        ("brand", str(tmp_path / "brand.safetensors")),
        ("style", "s3://bucket/s.safetensors"),
        ("own", "/l/o.safetensors"),
    ]
    assert job_of(Settings(), chosen(model="models/sofa")).model == str(tmp_path / "models" / "sofa")
    assert job_of(Settings(), chosen(vae="~nobody-of-that-name/vae")).vae.endswith("~nobody-of-that-name/vae")  # type: ignore[union-attr]
    (tmp_path / "demo").mkdir()
    assert job_of(Settings(), chosen(model="./demo")).model == str(tmp_path / "demo")
    for hub in ("owner/model", "demo", "tiny-random"):
        assert job_of(Settings(), chosen(model=hub)).model == hub
