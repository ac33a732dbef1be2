"""Texts -> the four embeddings that SDXL asks for; each text is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from inpaint_ops.engine.batching import PaintItem
from inpaint_ops.errors import PromptError
from inpaint_ops.protocol import MAX_PROMPTS

PROMPTS_KEPT = MAX_PROMPTS + 1
"""Texts whose embeddings are kept, in host memory: about 0.3 MB each in half precision at SDXL's size (77 x 2048 +
1280). One more than a job may announce: the empty negative prompt that a model may ask for."""


class Embedding(NamedTuple):
    """One text: `tokens` (1, 77, cross-attention width), `pooled` (1, the second encoder's projection width)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


class Prompts:
    """The embeddings of the `kept` texts used last, by `pipe.encode_prompt`; on the CPU, brought over for each batch.

    A text is encoded by itself, so that its embedding does not depend on its neighbours. A prompt and a negative prompt
    of the same text embed alike; a missing negative prompt is zeros where the model says so.
    """

    def __init__(self, pipe: Any, kept: int = PROMPTS_KEPT) -> None:
        self._pipe = pipe
        self._kept = kept
        self._known: OrderedDict[str, Embedding] = OrderedDict()
        self._broken: dict[str, Exception] = {}
        self.encoded = 0
        """Texts that went through the encoders."""

    def prepare(self, texts: Iterable[str], on_text: Callable[[int, int], None]) -> None:
        """Encode all of `texts`, and the empty one, which serves rows without a negative prompt.

        A text that cannot be encoded is left for its row to fail with. `on_text` gets how many are done, of how many.
        """
        distinct = dict.fromkeys((*texts, ""))
        for done, text in enumerate(distinct, 1):
            try:
                self._text(text)
            except (ValueError, TypeError, IndexError) as error:
                self._broken[text] = error
            on_text(done, len(distinct))

    def embed(self, rows: Sequence[PaintItem], *, guided: bool, device: torch.device) -> dict[str, torch.Tensor | None]:
        """The four arguments of the pipeline's call, a row of each for each of `rows`; negatives if `guided`.

        Raises PromptError for a text that is not known once the encoders are released.
        """
        positive = [self._text(item.prompt) for item in rows]
        embeds: dict[str, torch.Tensor | None] = {
            "prompt_embeds": torch.cat([one.tokens for one in positive]).to(device),
            "pooled_prompt_embeds": torch.cat([one.pooled for one in positive]).to(device),
            "negative_prompt_embeds": None,
            "negative_pooled_prompt_embeds": None,
        }
        if guided:
            negative = [self._negative(item, one) for item, one in zip(rows, positive, strict=True)]
            embeds["negative_prompt_embeds"] = torch.cat([one.tokens for one in negative]).to(device)
            embeds["negative_pooled_prompt_embeds"] = torch.cat([one.pooled for one in negative]).to(device)
        return embeds

    def _negative(self, item: PaintItem, positive: Embedding) -> Embedding:
        if item.negative_prompt is None and self._pipe.config.force_zeros_for_empty_prompt:
            return Embedding(torch.zeros_like(positive.tokens), torch.zeros_like(positive.pooled))
        return self._text(item.negative_prompt or "")

    def _text(self, text: str) -> Embedding:
        known = self._known.get(text)
        if known is None:
            if text in self._broken:
                raise PromptError(f"the prompt {text[:60]!r} cannot be encoded: {self._broken[text]}")
            if self._pipe.text_encoder_2 is None:
                raise PromptError(
                    f"the prompt {text[:60]!r} was not among the job's prompts, and the text encoders are released: "
                    "run the row again, or set release_text_encoders=false"
                )
            tokens, _, pooled, _ = self._pipe.encode_prompt(
                prompt=text, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            known = self._known[text] = Embedding(tokens.cpu(), pooled.cpu())
            self.encoded += 1
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(text)
        return known
