"""IOPaint's batch command on the photos of docs/parity.md, in an environment of its own: run by make.py, not by hand.

    PYTHON docs/parity/by_iopaint.py DEMO_MODEL FOLDER

FOLDER holds `in/`, `mask/` and `config.json`, and gets `out/`. IOPaint 1.6.0 brings diffusers 0.27.2 and finds models
in the hub's cache alone, so the demo's model is laid out as that version reads it; what it computes stays the same:

- its autoencoder has no attention, which that diffusers knows no option for: attention that adds 0 is put in;
- that transformers reads the tokenizers as vocabulary and merges;
- IOPaint loads the autoencoder by the name `madebyollin/sdxl-vae-fp16-fix`: there lies the demo's own.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

MODEL = "demo/sdxl-inpainting"
_REVISION = "0" * 40


def _repository(hub: Path, name: str, files: Path) -> Path:
    """A model in the hub's cache, copied from a folder; returns where its files are."""
    root = hub / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(_REVISION)
    return Path(shutil.copytree(files, root / "snapshots" / _REVISION))


def _lay_out(demo: Path, hub: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model = _repository(hub, MODEL, demo)
    for folder in ("tokenizer", "tokenizer_2"):
        kept = json.loads((model / folder / "tokenizer.json").read_text())["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in kept["merges"]]
        (model / folder / "vocab.json").write_text(json.dumps(kept["vocab"]))
        (model / folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges, "")))
    weights = model / "vae/diffusion_pytorch_model.fp16.safetensors"
    tensors = load_file(weights)
    for side in ("encoder", "decoder"):
        like = tensors[f"{side}.mid_block.resnets.0.conv2.bias"]
        at = f"{side}.mid_block.attentions.0"
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            tensors[f"{at}.{part}.weight"] = torch.zeros(len(like), len(like), dtype=like.dtype)
            tensors[f"{at}.{part}.bias"] = torch.zeros_like(like)
        tensors[f"{at}.group_norm.weight"] = torch.ones_like(like)
        tensors[f"{at}.group_norm.bias"] = torch.zeros_like(like)
    save_file(tensors, weights)
    other = _repository(hub, "madebyollin/sdxl-vae-fp16-fix", model / "vae")
    (other / weights.name).rename(other / "diffusion_pytorch_model.safetensors")


def main() -> None:
    """Paint what lies in the folder."""
    demo, folder = map(Path, sys.argv[1:])
    os.environ |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    _lay_out(demo, folder / "hf/hub")
    import iopaint.batch_processing as batch
    from iopaint.model_manager import ModelManager
    from iopaint.schema import Device

    # its own command leaves this out, and then fails for every SDXL model (KeyError: 'sd_cpu_textencoder')
    batch.ModelManager = lambda **options: ModelManager(sd_cpu_textencoder=False, **options)
    batch.batch_inpaint(
        model=MODEL, device=Device.cpu, image=folder / "in", mask=folder / "mask", output=folder / "out",
        config=folder / "config.json",
    )  # fmt: skip


if __name__ == "__main__":
    main()
