"""How a painted patch fits its surroundings, and what models of the user's say of it: figures of one picture."""

from __future__ import annotations

import operator
from typing import Annotated, Literal

from pydantic import Field

from inpaint_ops.records.base import Model

Levels = Annotated[float, Field(ge=0, le=255)]
"""A difference of pixels, in 8-bit levels."""


Ratio = Annotated[float, Field(ge=0, le=1100)]

Score = Literal["clip", "lpips"]
"""A measure that is taken by a model of the user's."""

SCORES: tuple[Score, ...] = ("clip", "lpips")

ScoreModel = Annotated[str, Field(max_length=160)]
"""The name of such a model, and the first 16 digits of its SHA-256."""


class Measures(Model):
    """How the painted patch fits its surroundings: of the finished picture, alpha on white. None: too few pixels.

    Patch: the pixels with at least half of the mask's highest weight. Ring: the pixels of weight 0 up to 16 from the
    mask. Band: the pixels of the patch up to 16 from weight 0. Differences are in 8-bit levels; of a pair of
    neighbouring pixels, the channel that differs most counts. Scores are of the square around the mask.
    """

    seam_contrast: Ratio | None = Field(
        default=None,
        description="(a + 1) / (b + 1): a is the mean difference of neighbours across the patch's edge, b that of "
        "neighbours that lie both in the ring or both in the band. About 1: no seam is seen. 1/256 to 256.",
    )
    colour_shift: Levels | None = Field(
        default=None, description="The mean colour of the band less that of the ring: the channel that differs most."
    )
    flatness: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="The share of neighbours within the patch that differ by less than 1 level."
    )
    sharpness_ratio: Ratio | None = Field(
        default=None,
        description="(a + 0.25) / (b + 0.25): a and b are the mean gradients of luma (Sobel, both axes, levels per "
        "pixel) in the patch and in the ring. Below 1: the patch is softer. 1/1021 to 1021.",
    )
    grain_ratio: Ratio | None = Field(
        default=None,
        description="(a + 0.25) / (b + 0.25): a and b are the standard deviations of noise in levels in the patch and "
        "in the ring, by the quieter quarter of Immerkaer's filter. Below 1: the patch is smoother. 1/535 to 535.",
    )
    clip: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        default=None,
        exclude_if=lambda score: score is None,
        description="The cosine of a CLIP model's embeddings of the picture and of the prompt. Higher: more as asked.",
    )
    lpips: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        default=None,
        exclude_if=lambda score: score is None,
        description="The distance that an LPIPS network sees between the source and the picture. 0: they look alike.",
    )
    models: dict[Score, ScoreModel] = Field(
        default_factory=dict,
        exclude_if=operator.not_,
        description="By which model each score was taken: scores of different ones say nothing about each other.",
    )
    score_problem: str = Field(
        default="", max_length=1000, exclude_if=operator.not_,
        description="Why a score is missing that the job has a model for.",
    )  # fmt: skip
