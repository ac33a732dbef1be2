"""Texts -> the four embeddings that SDXL asks for; each text is encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from inpaint_ops.config import PromptSyntax
from inpaint_ops.engine.batching import PaintItem
from inpaint_ops.engine.texts import Chunk, Chunks, cut_note, pieces, split
from inpaint_ops.errors import PromptError
from inpaint_ops.protocol import MAX_PROMPTS, Text

PROMPTS_KEPT = MAX_PROMPTS + 1
"""Texts whose embeddings are kept, in host memory: about 0.3 MB each in half precision at SDXL's size (77 x 2048 +
1280), as many times as it has chunks. One more than a job may announce: the empty negative prompt that a model may
ask for."""


class Embedding(NamedTuple):
    """One text: `tokens` (1, 77 x chunks, cross-attention width), `pooled` (1, the second encoder's projection width).

    `pooled` is the first chunk's.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor


class Prompts:
    """The embeddings of the `kept` texts used last, on the CPU, brought over for each batch.

    A text of one chunk without weights is encoded by `pipe.encode_prompt`, any other by the same encoders' same layers,
    chunk by chunk; shorter texts of the same row are filled up with chunks of the empty text.

    A text is encoded by itself, so that its embedding does not depend on its neighbours. A prompt and a negative prompt
    of the same text embed alike; a missing negative prompt is zeros where the model says so.
    """

    def __init__(self, pipe: Any, kept: int = PROMPTS_KEPT, syntax: PromptSyntax = "plain") -> None:
        self._pipe = pipe
        self._syntax: PromptSyntax = syntax
        self._tokenizing = threading.Lock()  # rows are read by several threads, and tokenizers are not made for that
        self.split = lru_cache(maxsize=kept)(self._split)
        self._kept = kept
        self._known: OrderedDict[tuple[Text, Hashable], Embedding] = OrderedDict()
        self.depends_on: Hashable = ()
        """What changes the text encoders at the moment: embeddings of one text differ by it."""
        self._broken: dict[Text, Exception] = {}
        self.encoded = 0
        """Texts that went through the encoders."""
        self.chunks_encoded = 0
        """Chunks that they had."""

    def prepare(self, texts: Iterable[Text], on_text: Callable[[int, int], None]) -> None:
        """Encode all of `texts`, and the empty one, which serves rows without a negative prompt.

        A text that cannot be encoded is left for its row to fail with. `on_text` gets how many are done, of how many.
        """
        distinct: dict[Text, None] = dict.fromkeys((*texts, ""))
        for done, text in enumerate(distinct, 1):
            try:
                self._text(text)
            except (ValueError, TypeError, IndexError) as error:
                self._broken[text] = error
            on_text(done, len(distinct))

    def shape(self, prompt: Text, negative_prompt: Text | None, *, guided: bool) -> tuple[int, tuple[str, ...]]:
        """Chunks that a row's longer text has, and a sentence for each text that was cut. For any thread."""
        named: dict[str, Text] = {"prompt": prompt}
        if negative_prompt and guided:
            named["negative prompt"] = negative_prompt
        found = {name: self.split(text) for name, text in named.items()}
        most = max(len(one.chunks) for chunks in found.values() for one in chunks)
        lost = {name: max((one.lost for one in chunks), key=len) for name, chunks in found.items()}
        return most, tuple(cut_note(name, words) for name, words in lost.items() if words)

    def embed(self, rows: Sequence[PaintItem], *, guided: bool, device: torch.device) -> dict[str, torch.Tensor | None]:
        """The four arguments of the pipeline's call, a row of each for each of `rows`; negatives if `guided`.

        Raises PromptError for a text that is not known once the encoders are released.
        """
        chunks = rows[0].key.chunks
        positive = [self._filled(self._text(item.prompt), chunks) for item in rows]
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
        return self._filled(self._text(item.negative_prompt or ""), item.key.chunks)

    def _filled(self, text: Embedding, chunks: int) -> Embedding:
        """`text` with chunks of the empty text after it, `chunks` in all."""
        size = self._pipe.tokenizer.model_max_length
        lacking = chunks - text.tokens.shape[1] // size
        if lacking <= 0:
            return text
        return Embedding(torch.cat([text.tokens, *[self._text("").tokens] * lacking], 1), text.pooled)

    def _text(self, text: Text) -> Embedding:
        key = text, self.depends_on
        known = self._known.get(key)
        if known is None:
            if text in self._broken:
                raise PromptError(f"the prompt {_shown(text)!r} cannot be encoded: {self._broken[text]}")
            if self._pipe.text_encoder_2 is None:
                raise PromptError(
                    f"the prompt {_shown(text)!r} was not among the job's prompts, and the text encoders are released: "
                    "run the row again, or set release_text_encoders=false"
                )
            known = self._known[key] = self._encode(text)
            self.encoded += 1
            self.chunks_encoded += known.tokens.shape[1] // self._pipe.tokenizer.model_max_length
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return known

    def _split(self, text: Text) -> tuple[Chunks, ...]:
        """The text for each of the two encoders."""
        for_each = (text, text) if isinstance(text, str) else text
        with self._tokenizing:
            return tuple(
                split(tokenizer, pieces(one, self._syntax))
                for tokenizer, one in zip((self._pipe.tokenizer, self._pipe.tokenizer_2), for_each, strict=True)
            )

    def _encode(self, text: Text) -> Embedding:
        for_each = self.split(text)
        if self._syntax == "plain" and all(len(one.chunks) == 1 for one in for_each):
            with self._tokenizing:
                mine, second = (text, None) if isinstance(text, str) else text
                tokens, _, pooled, _ = self._pipe.encode_prompt(
                    prompt=mine, prompt_2=second, num_images_per_prompt=1, do_classifier_free_guidance=False
                )
            return Embedding(tokens.cpu(), pooled.cpu())
        most = max(len(one.chunks) for one in for_each)
        encoders = (
            (self._pipe.tokenizer, self._pipe.text_encoder), (self._pipe.tokenizer_2, self._pipe.text_encoder_2),
        )  # fmt: skip
        parts, pooled = [], None
        for one, (tokenizer, encoder) in zip(for_each, encoders, strict=True):
            chunks = [*one.chunks, *[Chunk((), ())] * (most - len(one.chunks))]
            hidden = []
            for chunk in chunks:
                states, first = self._states(tokenizer, encoder, chunk)
                hidden.append(states)
                pooled = first if chunk is chunks[0] else pooled
            parts.append(torch.cat(hidden, 1))
        assert pooled is not None
        return Embedding(torch.cat(parts, 2).cpu(), pooled.cpu())

    def _states(self, tokenizer: Any, encoder: Any, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """A chunk's hidden states (1, 77, width), weighed, and what the encoder sums it up as."""
        size = tokenizer.model_max_length
        padding = size - 2 - len(chunk.ids)
        ids = [tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
        out = encoder(torch.tensor([ids], device=self._pipe._execution_device), output_hidden_states=True)
        states = out.hidden_states[-2]
        if any(weight != 1 for weight in chunk.weights):
            weights = torch.tensor([1.0, *chunk.weights, *[1.0] * (padding + 1)], device=states.device)
            weighed = states.float() * weights[None, :, None]
            states = (weighed * (states.float().mean() / weighed.mean())).to(states.dtype)
        return states.to(self._pipe.text_encoder_2.dtype), out[0]


def _shown(text: Text) -> str:
    return text[:60] if isinstance(text, str) else " / ".join(one[:60] for one in text)
