"""The random models: offline, the same bytes each time, shaped as SDXL inpainting is, and labelled."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLInpaintPipeline, UNet2DConditionModel
from PIL import Image

from inpaint_ops.errors import ModelError
from inpaint_ops.model import random_weights, recipes
from inpaint_ops.model.own_models import MARKER, RECIPE_VERSION, is_random
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and on a busy machine wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def paint(pipe: StableDiffusionXLInpaintPipeline, size: int = 64, steps: int = 4) -> np.ndarray:
    """One image of `size` pixels, left half kept; float values 0 to 1, shape (size, size, 3)."""
    pipe.set_progress_bar_config(disable=True)
    source = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8))
    mask = Image.fromarray(np.repeat([[0] * (size // 2) + [255] * (size // 2)], size, 0).astype(np.uint8))
    generator = torch.Generator("cpu").manual_seed(0)
    return pipe(
        "a cat", image=source, mask_image=mask, width=size, height=size, num_inference_steps=steps,
        generator=generator, output_type="np",
    ).images[0]  # fmt: skip


def test_two_builds_have_the_same_bytes(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    first = random_weights.ensure("tiny-random", cache)
    second = random_weights.build("tiny-random", tmp_path / "again")
    assert contents(first) == contents(second)
    assert sum(path.stat().st_size for path in first.rglob("*") if path.is_file()) < 5e6


def test_building_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    random_weights.instantiate("tiny-random")
    assert torch.rand(1) == expected


def test_the_folder_says_that_its_weights_are_random(cache: Path) -> None:
    folder = random_weights.ensure("tiny-random", cache)
    marker = json.loads((folder / MARKER).read_text())
    assert marker["random_weights"] is True
    assert marker["recipe"] == RECIPE_VERSION
    assert is_random(folder)
    assert not is_random(cache)


def test_the_pipeline_inpaints_with_nine_channels_and_four_vae_blocks(cache: Path) -> None:
    folder = random_weights.ensure("tiny-random", cache)
    pipe = StableDiffusionXLInpaintPipeline.from_pretrained(folder, local_files_only=True)
    assert pipe.unet.config.in_channels == 9
    assert len(pipe.vae.config.block_out_channels) == 4
    assert pipe.vae_scale_factor == 8
    assert pipe.unet.config.sample_size * pipe.vae_scale_factor == 64
    image = paint(pipe)
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
    assert image.std() > 0.01


def test_any_text_tokenises(cache: Path) -> None:
    folder = random_weights.ensure("tiny-random", cache)
    pipe = StableDiffusionXLInpaintPipeline.from_pretrained(folder, local_files_only=True)
    for tokenizer, padding in ((pipe.tokenizer, 513), (pipe.tokenizer_2, 0)):
        for text in ("", "a cat", "Größe 猫 \U0001f431 \x00\x7f", "long " * 200):
            ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
            assert len(ids) == 77
            assert ids[0] == 512
            assert 513 in ids
            assert max(ids) < 514
        assert tokenizer("a", padding="max_length", max_length=77).input_ids[-1] == padding


def test_values_stay_finite_in_sixteen_bits() -> None:
    pipe = random_weights.instantiate("tiny-random", "cpu", torch.bfloat16)
    assert pipe.unet.dtype == torch.bfloat16
    pipe = random_weights.instantiate("mid-random", "cpu", torch.float16)
    with torch.no_grad():
        latents = torch.randn(1, 4, 4, 4).half() * 14 / pipe.vae.config.scaling_factor
        assert torch.isfinite(pipe.vae.decode(latents).sample).all()
        embeds = torch.randn(1, 77, pipe.unet.config.cross_attention_dim).half()
        added = {"text_embeds": torch.randn(1, 128).half(), "time_ids": torch.full((1, 6), 1024.0).half()}
        noise = pipe.unet(torch.randn(1, 9, 8, 8).half(), 999, embeds, added_cond_kwargs=added).sample
        assert torch.isfinite(noise).all()
        assert noise.std() > 0.01


def test_the_full_size_recipe_has_sdxl_inpaintings_parameters() -> None:
    """2.57e9, 84e6, 123e6 and 695e6 parameters: the real files' sizes in 16 bits, 6.94e9 bytes together (facts)."""
    recipe = recipes.recipe("sdxl-random")
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**recipe.unet), AutoencoderKL(**recipe.vae)
        clips = [
            random_weights.CLIPTextModel(random_weights.CLIPTextConfig(**recipe.clip_l)),
            random_weights.CLIPTextModelWithProjection(random_weights.CLIPTextConfig(**recipe.clip_g)),
        ]
    counts = [sum(value.numel() for value in module.parameters()) for module in (unet, vae, *clips)]
    assert counts[0] == 2_567_478_084  # the base UNet's 2,567,463,684, and 5 more input channels: 5 * 320 * 9
    assert counts[1] == 83_653_863
    assert counts[2] == 123_060_480
    assert counts[3] == 694_659_840
    assert 2 * sum(counts) == pytest.approx(6.94e9, rel=0.005)
    assert unet.config.sample_size * 8 == recipe.native_size == 1024
    assert (vae.config.sample_size, vae.config.force_upcast) == (512, False)


def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from inpaint_ops.model import random_weights as r; "
        "build = r.build; r.build = lambda *a: (print('built', flush=True), build(*a))[1]; "
        "print(r.ensure('tiny-random', Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    words = [process.communicate(timeout=PATIENCE)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "".join(words).count("built") == 1
    folders = list((tmp_path / "random").iterdir())
    assert {path.name for path in folders if path.is_dir()} == {f"tiny-random-{RECIPE_VERSION}"}


def test_an_unknown_random_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"huge-random.*tiny-random"):
        random_weights.ensure("huge-random", tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="HF_HOME"):
        random_weights.ensure("tiny-random", tmp_path / "file")
