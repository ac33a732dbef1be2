"""The process that makes small pictures can open no file: what a decoder loads at its first need is loaded before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from inpaint_ops.errors import ImageError, PreviewError
from inpaint_ops.previews import Helper, host
from inpaint_ops.previews.helper import Whole
from inpaint_ops.previews.messages import Job
from tests.fuzz import make_corpus
from tests.images.mask_kinds import EXACT, HEIGHT, LOSSY, WIDTH, drawn_shape
from tests.support.pictures import MAX_PIXELS

MASKS = EXACT | LOSSY
FILES = {f"{group}-{name}": data for group in ("source", "mask") for name, data in make_corpus.files()[group].items()}


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    with Helper() as found:
        yield found


def assert_as_here(helper: Helper, job: Job, *files: bytes) -> None:
    """The helper answers what this process, which may open files, makes of them: the same bytes or the same error.

    Each answer is made by a process that has made none before.
    """
    try:
        expected: bytes | str = host.make(job, files)
    except ImageError as error:
        expected = str(error)
    try:
        found: bytes | str = helper.make(job, [Whole(data) for data in files]).data
    except PreviewError as error:
        found = str(error)
    assert found == expected


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_of_every_kind_is_shown(helper: Helper, kind: str) -> None:
    rng = np.random.default_rng(1)
    data, _ = MASKS[kind](drawn_shape(rng), rng)
    assert_as_here(helper, Job("mask", 64, MAX_PIXELS), data)
    assert_as_here(helper, Job("mask", 64, MAX_PIXELS, block=(0, 0, 0), size=(WIDTH, HEIGHT)), data)


@pytest.mark.parametrize("name", FILES)
def test_a_picture_of_every_format_is_shown(helper: Helper, name: str) -> None:
    data = FILES[name]
    assert_as_here(helper, Job("picture", 64, MAX_PIXELS), data)
    assert_as_here(helper, Job("picture", 64, MAX_PIXELS, block=(0, 0, 0)), data)
    assert_as_here(helper, Job("mask", 64, MAX_PIXELS), data)
    assert_as_here(helper, Job("size", 64, MAX_PIXELS), data)
    assert_as_here(helper, Job("difference", 64, MAX_PIXELS), data, data)
