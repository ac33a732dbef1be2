"""How well a picture shows what a text says, by a CLIP model of the user's (Radford et al., 2021)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import CLIPModel, CLIPTokenizerFast

from inpaint_ops.config import CLIP_MODEL_CURE
from inpaint_ops.errors import ModelError, NonFiniteImageError
from inpaint_ops.model.progress import without_progress_bars
from inpaint_ops.model.score_models import ClipFiles

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises for files that do not fit."""

_TEXTS = 256
"""Texts whose embeddings are kept: a few kilobytes each."""


class Clip:
    """A CLIP model on the worker's device. Any thread may use it; one at a time does.

    On a card it works in a stream of its own, beside the painting.
    """

    def __init__(self, files: ClipFiles, device: torch.device, dtype: torch.dtype) -> None:
        """Load the weights, and try them on a drawn picture and a text. Raises ModelError."""
        self.side = files.side
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, tuple[torch.Tensor, int]] = OrderedDict()
        self._device, self._dtype = device, dtype
        self._mean, self._deviation = (np.asarray(values, np.float32) for values in (files.mean, files.deviation))
        try:
            with without_progress_bars():
                self._model, about = CLIPModel.from_pretrained(
                    files.folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
                )
                self._tokenizer = CLIPTokenizerFast.from_pretrained(files.folder, local_files_only=True)
            missing = sorted(map(str, about["missing_keys"]))
            if missing:
                raise ModelError(
                    f"the CLIP model {files.folder}: its weights lack {missing[0]}"
                    f"{f' and {len(missing) - 1:,} more' if missing[1:] else ''}: {CLIP_MODEL_CURE}"
                )
            self._model = self._model.eval().requires_grad_(False).to(device)
            self.most_tokens = int(self._model.config.text_config.max_position_embeddings)
            self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
            if self._stream is not None:
                torch.cuda.synchronize(device)  # the weights came by another stream
            self.score(_drawn(files.side), "a photo")
        except torch.OutOfMemoryError:
            raise
        except _UNREADABLE as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(f"the CLIP model {files.folder} cannot be used ({text}): {CLIP_MODEL_CURE}") from error
        except (NonFiniteImageError, IndexError) as error:
            raise ModelError(
                f"the CLIP model {files.folder} gives no score for a drawn picture ({error}): {CLIP_MODEL_CURE}"
            ) from error

    def __str__(self) -> str:
        """How it runs, for the ledger."""
        size = sum(one.numel() * one.element_size() for one in self._model.parameters())
        return (
            f"run by transformers on {self._device.type} in {str(self._dtype).removeprefix('torch.')} at "
            f"{self.side}x{self.side}; its weights take {size / 1e6:,.1f} MB there"
        )

    def score(self, picture: np.ndarray, text: str) -> tuple[float, int]:
        """The cosine of both embeddings, -1 to 1, and how many tokens the text has with the two at its ends.

        Tokens beyond `most_tokens` are not read. Args: `picture` (side, side, 3) uint8 RGB. Raises
        NonFiniteImageError, and what torch raises.
        """
        scaled = (picture.astype(np.float32) / 255 - self._mean) / self._deviation
        with self._lock, torch.inference_mode(), torch.cuda.stream(self._stream):
            told, tokens = self._told(text)
            pixels = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))[None]
            seen = self._model.vision_model(pixel_values=pixels.to(self._device, self._dtype)).pooler_output
            seen = _unit(self._model.visual_projection(seen))
            cosine = float((seen * told).sum().cpu())
        if not np.isfinite(cosine):
            raise NonFiniteImageError("the CLIP model's result is NaN or infinity")
        return min(max(cosine, -1.0), 1.0), tokens

    def _told(self, text: str) -> tuple[torch.Tensor, int]:
        """A text's embedding, of length 1, and its tokens; those of the last texts are kept."""
        if text in self._texts:
            self._texts.move_to_end(text)
            return self._texts[text]
        ids: list[int] = self._tokenizer(text, truncation=False, verbose=False).input_ids
        if max(ids) >= self._model.config.text_config.vocab_size:
            raise ValueError("its tokenizer has tokens that its text encoder does not know")
        read = ids if len(ids) <= self.most_tokens else [*ids[: self.most_tokens - 1], ids[-1]]
        told: Any = self._model.text_model(input_ids=torch.tensor([read], device=self._device)).pooler_output
        self._texts[text] = _unit(self._model.text_projection(told)), len(ids)
        while len(self._texts) > _TEXTS:
            self._texts.popitem(last=False)
        return self._texts[text]


def _unit(embedding: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embedding.float(), dim=-1, eps=0.0)


def _drawn(side: int) -> np.ndarray:
    """(side, side, 3) uint8: a slope of colour."""
    slope = np.linspace(0, 255, side)
    return np.stack(np.broadcast_arrays(slope[:, None], slope[None], 128.0), axis=2).astype(np.uint8)
