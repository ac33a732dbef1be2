"""A LoRA's file, by its header: what it is, and what it was trained for. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.errors import ModelError
from inpaint_ops.model.checkpoints import Header, check_numbers, read_header
from inpaint_ops.model.digests import file_digest
from inpaint_ops.records import LoraFile

_OTHERS = {
    "dora_scale": "DoRA, whose scales would be left out",
    "lora_magnitude_vector": "DoRA, whose magnitudes would be left out",
    "hada_w1": "LoHa (LyCORIS)",
    "lokr_w1": "LoKr (LyCORIS)",
    "oft_": "OFT",
    "lora_mid": "a LoCon with a third matrix (Tucker)",
    "on_input": "(IA)³",
    "diff_b": "differences of biases",
}
"""Parts of names that say which relative of LoRA a file holds, none of which is painted with."""

_EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
"""Numbers that a LoRA's matrices may also be: they have no scale beside them."""

_MATRICES = ("lora_down", "lora_up", "lora_A", "lora_B", "lora.down", "lora.up", "lora_linear_layer")


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """A LoRA that is here and whole. `digest` is the SHA-256 of its file."""

    name: str
    path: Path
    weight: float
    bytes: int
    digest: str


def locate(path: str) -> Path:
    """The file that `path` names: itself, or the one safetensors file of a folder. Raises ModelError."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return place
    named = place / "pytorch_lora_weights.safetensors"  # diffusers' own name for it
    found = [named] if named.is_file() else sorted(place.glob("*.safetensors"))
    if len(found) != 1:
        raise ModelError(f"the LoRA folder {place} holds {len(found)} safetensors files: name the file")
    return found[0]


def check_lora(path: Path) -> Header:
    """The header of a LoRA in diffusers' or kohya's layout. Raises ModelError that names the file and the cure."""
    header = read_header(path)
    names = list(header.tensors)
    for part, kind in _OTHERS.items():
        if any(part in name for name in names):
            raise ModelError(f"{path} holds {kind}: use a LoRA of plain matrices (`lora_down`, `lora_up`)")
    if not any(part in name for part in _MATRICES for name in names):
        some = f"its first tensor is {names[0][:80]}" if names else "it holds no tensors"
        raise ModelError(f"{path} is no LoRA ({some}): a model is given with --model, a VAE with --vae")
    check_numbers(header, ends=".weight", also=_EIGHT_BITS)
    for name, tensor in header.tensors.items():
        if name.endswith(".alpha") and math.prod(tensor.shape) != 1:
            raise ModelError(f"the LoRA {path} is damaged: {name} has {math.prod(tensor.shape)} numbers, not one")
        if name.endswith(".weight") and (len(tensor.shape) < 2 or 0 in tensor.shape):
            raise ModelError(f"the LoRA {path} is damaged: {name} has the shape {tensor.shape}, which is no matrix's")
    return header


def find(loras: Iterable[LoraFile], notes: Path) -> tuple[LoraWeights, ...]:
    """Check each LoRA by its header and its digest; `notes` is where digests are noted. Raises ModelError."""
    found = []
    for one in loras:
        path = locate(one.path)
        check_lora(path)
        found.append(LoraWeights(one.name, path, one.weight, path.stat().st_size, file_digest(path, notes)))
    return tuple(found)
