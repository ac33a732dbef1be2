"""LoRAs through the engine: a batch has one set, and a text is encoded for each set that changes the encoders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from inpaint_ops.engine import BatchKey, Engine, PaintItem
from inpaint_ops.model.adapters import Adapters
from inpaint_ops.model.loras import LoraWeights
from inpaint_ops.model.random_weights import instantiate
from tests.support import loras
from tests.support.engine_parts import painting_model

KEY = BatchKey(width=64, height=64, steps=2, guidance_scale=1.0, strength=0.9999)


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield instantiate("tiny-random")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def adapters(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    root = tmp_path_factory.mktemp("loras")
    texts = loras.write(pipe, root / "texts.safetensors", "kohya", texts=True, seed=1)
    unet = loras.write(pipe, root / "unet.safetensors", "diffusers", seed=2)
    return Adapters(pipe, [LoraWeights(path.stem, path, 1.0, 0, "") for path in (texts, unet)])


def item(row: int, *wanted: tuple[str, float], prompt: str = "a boat") -> PaintItem:
    rgb = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    return PaintItem(row, KEY._replace(loras=wanted), rgb, mask, prompt, None, 7)


def painted(engine: Engine, one: PaintItem) -> bytes:
    (result,) = engine.paint([one])
    assert result.image is not None, result.error
    return result.image.tobytes()


def test_a_text_is_encoded_once_for_each_set_that_changes_the_encoders(pipe: Any, adapters: Adapters) -> None:
    engine = Engine(painting_model(pipe, use_loras=adapters.use))
    plain = painted(engine, item(1))
    assert engine.prompts.encoded == 1
    with_unet = painted(engine, item(2, ("unet", 1.0)))
    assert engine.prompts.encoded == 1, "the text encoders are as they were"
    with_texts = painted(engine, item(3, ("texts", 1.0)))
    assert engine.prompts.encoded == 2
    both = painted(engine, item(4, ("texts", 1.0), ("unet", 1.0)))
    assert engine.prompts.encoded == 2, "the same set for the texts"
    weaker = painted(engine, item(5, ("texts", 0.5)))
    assert engine.prompts.encoded == 3
    assert len({plain, with_unet, with_texts, both, weaker}) == 5
    assert painted(engine, item(6)) == plain and painted(engine, item(7, ("texts", 1.0))) == with_texts
    assert engine.prompts.encoded == 3


def test_rows_of_other_loras_are_no_batch(pipe: Any, adapters: Adapters) -> None:
    engine = Engine(painting_model(pipe, use_loras=adapters.use))
    with pytest.raises(ValueError, match="one set of LoRAs"):
        list(engine.paint([item(1), item(2, ("unet", 1.0))]))
