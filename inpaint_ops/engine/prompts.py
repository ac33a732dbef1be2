"""Texts -> the four embeddings that SDXL asks for; each text is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from inpaint_ops.engine.batching import PaintItem

PROMPTS_KEPT = 256
"""Texts whose embeddings stay on the device: about 0.3 MB each in half precision at SDXL's size (77 x 2048 + 1280)."""


class Embedding(NamedTuple):
    """One text: `tokens` (1, 77, cross-attention width), `pooled` (1, the second encoder's projection width)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


class Prompts:
    """The embeddings of the `kept` texts used last, by `pipe.encode_prompt`.

    A text is encoded by itself, so that its embedding does not depend on its neighbours. A prompt and a negative prompt
    of the same text embed alike; a missing negative prompt is zeros where the model says so.
    """

    def __init__(self, pipe: Any, kept: int = PROMPTS_KEPT) -> None:
        self._pipe = pipe
        self._kept = kept
        self._known: OrderedDict[str, Embedding] = OrderedDict()

    def embed(self, rows: Sequence[PaintItem], *, guided: bool) -> dict[str, torch.Tensor | None]:
        """The four arguments of the pipeline's call, a row of each for each of `rows`; negatives if `guided`."""
        positive = [self._text(item.prompt) for item in rows]
        embeds: dict[str, torch.Tensor | None] = {
            "prompt_embeds": torch.cat([one.tokens for one in positive]),
            "pooled_prompt_embeds": torch.cat([one.pooled for one in positive]),
            "negative_prompt_embeds": None,
            "negative_pooled_prompt_embeds": None,
        }
        if guided:
            negative = [self._negative(item, one) for item, one in zip(rows, positive, strict=True)]
            embeds["negative_prompt_embeds"] = torch.cat([one.tokens for one in negative])
            embeds["negative_pooled_prompt_embeds"] = torch.cat([one.pooled for one in negative])
        return embeds

    def _negative(self, item: PaintItem, positive: Embedding) -> Embedding:
        if item.negative_prompt is None and self._pipe.config.force_zeros_for_empty_prompt:
            return Embedding(torch.zeros_like(positive.tokens), torch.zeros_like(positive.pooled))
        return self._text(item.negative_prompt or "")

    def _text(self, text: str) -> Embedding:
        known = self._known.get(text)
        if known is None:
            tokens, _, pooled, _ = self._pipe.encode_prompt(
                prompt=text, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            known = self._known[text] = Embedding(tokens, pooled)
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(text)
        return known
