"""What models of the user's say of a finished picture. The row is done without a score that cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from inpaint_ops import images
from inpaint_ops.config import PromptSyntax
from inpaint_ops.errors import one_line
from inpaint_ops.protocol import Item
from inpaint_ops.records import Measures, Score

if TYPE_CHECKING:
    from inpaint_ops.model.scorers import Scorers

NO_PROMPT = "its prompt is empty"


def scored(
    measures: Measures,
    scorers: Scorers,
    item: Item,
    source: np.ndarray,
    pixels: np.ndarray,
    weights: np.ndarray,
    *,
    syntax: PromptSyntax,
) -> tuple[Measures, tuple[str, ...]]:
    """The measures with the scores of the picture, and a sentence where a prompt was read in part.

    CLIP compares the square around the mask with the row's prompt, as words without weights; LPIPS compares that
    square of the source and of the picture. Why a score is missing stands in `score_problem`.
    """
    found: dict[str, Any] = {}
    models: dict[Score, str] = {}
    problems: list[str] = []
    notes: tuple[str, ...] = ()
    if scorers.clip is not None:
        scorer, clip = scorers.clip
        text = _words(item.prompt, syntax)
        try:
            if text:
                with scorer.timed():
                    found["clip"], tokens = clip.score(images.close_up(pixels, weights, clip.side), text)
                models["clip"] = scorer.model
                notes = cut_note(tokens, clip.most_tokens)
            else:
                problems.append(f"clip: {NO_PROMPT}")
        except Exception as error:
            problems.append(_problem("clip", error))
    if scorers.lpips is not None:
        scorer, lpips = scorers.lpips
        try:
            with scorer.timed():
                before, after = (images.close_up(one, weights, lpips.side) for one in (source, pixels))
                found["lpips"] = lpips.distance(before, after)
            models["lpips"] = scorer.model
        except Exception as error:
            problems.append(_problem("lpips", error))
    return measures.model_copy(update=found | {"models": models, "score_problem": "; ".join(problems)}), notes


def cut_note(tokens: int, most: int) -> tuple[str, ...]:
    """What the record says of a prompt of so many tokens where the CLIP model reads fewer."""
    if tokens <= most:
        return ()
    return (f"the CLIP score is of the prompt's beginning: the model reads {most} tokens, the prompt has {tokens}",)


def _words(prompt: str, syntax: PromptSyntax) -> str:
    from inpaint_ops.engine.texts import pieces

    return " ".join("".join(piece.text for piece in pieces(prompt, syntax)).split())


def _problem(score: Score, error: Exception) -> str:
    return f"{score}: {type(error).__name__}: {one_line(' '.join(str(error).split()))[:300]}"
