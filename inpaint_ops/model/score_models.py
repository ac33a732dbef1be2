"""The models that finished images are scored by: a CLIP model's folder, an LPIPS network's file. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint_ops.config import CLIP_MODEL_CURE, LPIPS_MODEL_CURE
from inpaint_ops.errors import ModelError
from inpaint_ops.model import onnx_files
from inpaint_ops.model.config_limits import check_configs
from inpaint_ops.model.own_models import PICKLE_CURE, PICKLES
from inpaint_ops.model.tokenizers import is_tokenizer

if TYPE_CHECKING:
    from inpaint_ops.images import Lpips

WEIGHTS = "model.safetensors"
_LPIPS = "LPIPS model"
_PROJECTIONS = ("visual_projection.weight", "text_projection.weight")
_MOST_SIDE = 1024
"""Pixels of the square that a CLIP model sees, at most; published ones see 224 to 378."""


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """A CLIP model's folder.

    `side` is the square that it sees, in pixels; `mean` and `deviation` are what colours of 0 to 1 are shifted by and
    divided by, channel by channel; `bytes` is the size of its weights.
    """

    folder: Path
    bytes: int
    side: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    digest: str = ""


@dataclass(frozen=True, slots=True)
class LpipsFile:
    """An LPIPS network that has been tried. `digest` is the SHA-256 of its file."""

    path: Path
    digest: str
    network: Lpips


@dataclass(frozen=True, slots=True)
class ScoreModels:
    """What a job's images are scored by; None: they are not."""

    clip: ClipFiles | None = None
    lpips: LpipsFile | None = None


def locate_clip(name: str) -> ClipFiles:
    """The folder that `name` names, by its configuration, its tokenizer and its weights' header; without a digest.

    Raises ModelError that names the file and the cure.
    """
    from inpaint_ops.model.checkpoints import read_header  # needs safetensors, not in Airflow's own image

    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ModelError(f"the CLIP model {name}: there is no such folder; {CLIP_MODEL_CURE}")
    config = _json(folder / "config.json")
    check_configs(folder)
    if config.get("model_type") != "clip":
        raise ModelError(
            f"the CLIP model {name} is a model of the kind {str(config.get('model_type'))[:50]!r}, not 'clip': "
            f"{CLIP_MODEL_CURE}"
        )
    if not (folder / WEIGHTS).is_file():
        pickled = next((path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES), None)
        why = f"only {pickled}, and {PICKLE_CURE}" if pickled else CLIP_MODEL_CURE
        raise ModelError(f"the CLIP model {name} has no {WEIGHTS}: {why}")
    missing = [one for one in _PROJECTIONS if one not in read_header(folder / WEIGHTS).tensors]
    if missing:
        raise ModelError(f"the CLIP model {name}: {WEIGHTS} has no {missing[0]}: {CLIP_MODEL_CURE}")
    if not is_tokenizer(folder):
        raise ModelError(
            f"the CLIP model {name} has no tokenizer (vocab.json with merges.txt, or tokenizer.json): {CLIP_MODEL_CURE}"
        )
    vision = config.get("vision_config")
    side = vision.get("image_size", 224) if isinstance(vision, dict) else 224
    if not isinstance(side, int) or not 1 <= side <= _MOST_SIDE:
        raise ModelError(
            f"the CLIP model {name}: image_size is {side!r}, 1 to {_MOST_SIDE} is taken: {CLIP_MODEL_CURE}"
        )
    mean, deviation = _colours(folder, name)
    return ClipFiles(folder, (folder / WEIGHTS).stat().st_size, side, mean, deviation)


def locate_lpips(name: str) -> Path:
    """The file that `name` names, by its suffix and its size. Raises ModelError that names the file and the cure."""
    return onnx_files.locate(name, _LPIPS, LPIPS_MODEL_CURE)


def find(clip: str | None, lpips: str | None, notes: Path) -> ScoreModels:
    """Check what a job's images shall be scored by, read and try the LPIPS network. Raises ModelError.

    `notes` is where digests are noted.
    """
    return ScoreModels(None if clip is None else _find_clip(clip, notes), None if lpips is None else _load_lpips(lpips))


def _find_clip(name: str, notes: Path) -> ClipFiles:
    from inpaint_ops.model.digests import file_digest

    found = locate_clip(name)
    return replace(found, digest=file_digest(found.folder / WEIGHTS, notes))


def _load_lpips(name: str) -> LpipsFile:
    from inpaint_ops.images import Lpips  # needs OpenCV, which planning does without

    data, digest = onnx_files.read(name, _LPIPS, LPIPS_MODEL_CURE)
    return LpipsFile(locate_lpips(name), digest, Lpips(data, f"the {_LPIPS} {name}"))


def _colours(folder: Path, name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """What colours are shifted by and divided by, as the folder says. transformers 5 writes it into another file."""
    found: Any = None
    if (folder / "preprocessor_config.json").is_file():
        found = _json(folder / "preprocessor_config.json")
    elif (folder / "processor_config.json").is_file():
        found = _json(folder / "processor_config.json").get("image_processor")
    values: list[Any] = [found.get(key) if isinstance(found, dict) else None for key in ("image_mean", "image_std")]
    for value in values:
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(one, int | float) for one in value):
            raise ModelError(
                f"the CLIP model {name} does not say how it wants colours (image_mean and image_std in "
                f"preprocessor_config.json): {CLIP_MODEL_CURE}"
            )
    mean, deviation = ((float(one[0]), float(one[1]), float(one[2])) for one in values)
    if not all(-10 <= one <= 10 for one in mean) or not all(1e-3 <= one <= 10 for one in deviation):
        raise ModelError(f"the CLIP model {name}: its image_mean or image_std is out of range: {CLIP_MODEL_CURE}")
    return mean, deviation


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if path.stat().st_size <= 2**20 else None
    except FileNotFoundError:
        raise ModelError(f"the CLIP model {path.parent} has no {path.name}: {CLIP_MODEL_CURE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): {CLIP_MODEL_CURE}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object: {CLIP_MODEL_CURE}")
    return value
