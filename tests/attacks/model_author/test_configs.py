"""A model's configuration is data of a stranger: what it asks for costs neither the machine nor the night."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.errors import ModelError
from inpaint_ops.model import random_weights
from inpaint_ops.model.config_limits import MAX_CONFIG_BYTES, MAX_JSON_BYTES, check_configs
from inpaint_ops.model.pulling import pull
from inpaint_ops.model.verifying import verify


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights.ensure("tiny-random", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def test_a_sound_model_passes(sound: Path) -> None:
    check_configs(sound)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**10),
        ("scheduler/scheduler_config.json", "beta_end", float("inf")),
        ("scheduler/scheduler_config.json", "beta_end", float("nan")),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1] * 20_000),
        ("text_encoder/config.json", "num_hidden_layers", 10**6),
        ("text_encoder_2/config.json", "vocab_size", 2**40),
        ("unet/config.json", "sample_size", -(10**9)),
        ("unet/config.json", "layers_per_block", 100_000),
        ("unet/config.json", "transformer_layers_per_block", [1, 2, 10**5]),
        ("vae/config.json", "block_out_channels", [8] * 5_000),
        ("vae/config.json", "scaling_factor", 1e300),
        ("vae/config.json", "scaling_factor", -(10**400)),
        ("vae/config.json", "of_a_later_version", {"deep": [{"within": 10**12}]}),
    ],
)
def test_absurd_numbers_are_refused_by_file_and_field(folder: Path, file: str, field: str, value: Any) -> None:
    """A configuration that has a library build a million layers, or ten billion noise levels."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    name = "within" if isinstance(value, dict) else field
    for check in (verify, lambda model: pull(str(model))):
        with pytest.raises(ModelError) as caught:
            check(folder)
        assert file in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000, "the value itself may be long"


def test_numbers_of_any_length_and_json_of_any_depth_are_one_error(folder: Path) -> None:
    """A number of a million digits, brackets a hundred thousand deep."""
    path = folder / "unet/config.json"
    for text in ('{"sample_size": ' + "9" * 900_000 + "}", "[" * 100_000, '{"a": ' * 100_000, "\xff", ""):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ModelError, match=r"unet/config\.json") as caught:
            verify(folder)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("file", "limit"), [("vae/config.json", MAX_CONFIG_BYTES), ("tokenizer/tokenizer.json", MAX_JSON_BYTES)]
)
def test_a_file_of_gigabytes_is_not_read(folder: Path, file: str, limit: int) -> None:
    """A sparse configuration of two gigabytes."""
    os.truncate(folder / file, 2**31)
    with pytest.raises(ModelError, match=rf"{file} has 2147483648 bytes, the limit is {limit}"):
        verify(folder)


def test_a_pipe_in_a_models_folder_is_not_waited_for(folder: Path) -> None:
    """A FIFO where a configuration should be."""
    (folder / "unet/config.json").unlink()
    os.mkfifo(folder / "unet/config.json")
    with pytest.raises(ModelError, match="not a regular file"):
        verify(folder)
