"""The full-size model as a folder of safetensors that take no disk: real headers, and weights that are holes.

And how the libraries open such a file on the dry card: FakeTensors of the shapes that its header has.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors
import safetensors.torch
import torch
import transformers.modeling_utils

from inpaint_ops.model import adapters, random_weights, single_file
from inpaint_ops.model.own_models import MARKER
from tests.support import loras, single_files

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def write(folder: Path, name: str, dtype: torch.dtype) -> Path:
    """The model `name` as diffusers saves it (the fp16 variant where `dtype` is float16), text encoders with the prefix
    of files that are older than transformers 5, as the published ones are.

    A file's bytes beyond its header are a hole, which reads as zeros.
    """
    pipe: Any = random_weights.without_values(name)
    pipe.save_config(str(folder))
    for part in ("scheduler", "tokenizer", "tokenizer_2"):
        getattr(pipe, part).save_pretrained(str(folder / part))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module, place = getattr(pipe, part), folder / part
        place.mkdir()
        _config(module, place)
        prefix = "text_model." if part.startswith("text_encoder") else ""
        shapes = {
            key if key.startswith(("text_model.", "text_projection.")) else prefix + key: tuple(value.shape)
            for key, value in module.named_parameters()
        }
        variant = ".fp16" if dtype == torch.float16 else ""
        _safetensors(place / f"{_STEMS.get(part, 'model')}{variant}.safetensors", shapes, dtype)
    return folder


def write_file(path: Path, name: str, dtype: torch.dtype) -> Path:
    """The model `name` in one file, in Stability AI's layout, marked as random weights; its bytes are a hole, too."""
    tensors = single_files.original(random_weights.without_values(name))
    _safetensors(path, {key: tuple(value.shape) for key, value in tensors}, dtype, {MARKER: "yes"})
    return path


def write_lora(path: Path, name: str, rank: int) -> Path:
    """A LoRA for the attention of the UNet of the model `name`, in float16 and diffusers' layout; a hole as well."""
    unet = random_weights.without_values(name).unet
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (takes, gives) in loras.layers(unet, ("to_q", "to_k", "to_v", "to_out.0")).items():
        shapes |= {f"unet.{layer}.lora_A.weight": (rank, takes), f"unet.{layer}.lora_B.weight": (gives, rank)}
    _safetensors(path, shapes, torch.float16)
    return path


def _config(module: Any, place: Path) -> None:
    if hasattr(module, "save_config"):
        module.save_config(str(place))
    else:
        module.config.save_pretrained(str(place))


def _safetensors(
    path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, notes: dict[str, str] | None = None
) -> None:
    """The file's layout: eight bytes with the header's length, the header, the tensors one after another."""
    header: dict[str, Any] = {"__metadata__": notes} if notes else {}
    at = 0
    for name, shape in shapes.items():
        end = at + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + at)


def pretend_reading() -> None:
    """Have diffusers and transformers open safetensors so, for the rest of the process.

    transformers would copy tensors in threads, where the dry card's modes are not active: it has a variable against it.
    """
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    opened = safetensors.safe_open

    def safe_open(path: Any, framework: str, device: Any = "cpu", **more: Any) -> Any:
        if framework != "pt":
            return opened(path, framework, device=device, **more)
        return _Opened(opened(path, "pt", device="cpu", **more), torch.device(device))

    for module in (safetensors, safetensors.torch, transformers.modeling_utils, single_file, adapters):
        module.safe_open = safe_open  # type: ignore[attr-defined]


class _Opened:
    """A safetensors file whose tensors are FakeTensors on a device: of the file its header alone is read."""

    def __init__(self, real: Any, device: torch.device) -> None:
        self._real, self._device = real, device
        self.keys, self.metadata = real.keys, real.metadata

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._real.__exit__(kind, error, at)

    def get_tensor(self, name: str) -> torch.Tensor:
        header = self._real.get_slice(name)
        return torch.empty(header.get_shape(), dtype=_DTYPES[header.get_dtype()], device=self._device)

    def get_tensors(self) -> dict[str, torch.Tensor]:
        return {name: self.get_tensor(name) for name in self.keys()}

    def get_slice(self, name: str) -> _Slice:
        return _Slice(self, name, self._real.get_slice(name))


class _Slice:
    """A tensor that is read when it is asked for: all of it."""

    def __init__(self, opened: _Opened, name: str, real: Any) -> None:
        self._opened, self._name = opened, name
        self.get_shape, self.get_dtype = real.get_shape, real.get_dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._opened.get_tensor(self._name)[index]
