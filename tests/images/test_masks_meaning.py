"""What a mask file means: every kind that people bring is read as drawn, or refused with a cure that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from inpaint_ops.errors import MaskError
from inpaint_ops.images import Mask, place, read_mask
from tests.images.mask_kinds import EXACT, HEIGHT, LOSSY, WIDTH, drawn_shape, full, photo
from tests.support.pictures import MAX_PIXELS, Array, file_of, mask_array, png

TIMES = range(10)


def read(data: bytes, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> Mask:
    return read_mask(data, size=size, max_pixels=MAX_PIXELS, **options)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("seed", TIMES)
def test_a_mask_of_any_kind_is_read_as_drawn(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = drawn_shape(rng)
    data, expected = EXACT[kind](shape, rng)
    if not expected.any():
        with pytest.raises(MaskError, match="masks nothing"):
            read(data)
        return
    mask = read(data)
    assert np.array_equal(mask.weights, expected)
    assert np.array_equal(read(data, invert=True).weights, 255 - expected)
    plain = kind in ("white on black", "0 and 65535", "white on transparent", "feathered")
    assert (mask.conversions == ()) == plain, "every other reading is said"


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("seed", TIMES)
def test_the_noise_of_lossy_files_is_no_mask_whatever_they_were_saved_as(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = drawn_shape(rng)
    data, _ = LOSSY[kind](shape, rng)
    mask = read(data)
    near, core = cv2.dilate(full(shape), np.ones((5, 5))) > 0, cv2.erode(full(shape), np.ones((5, 5))) > 0
    stray = mask.weights[~near]
    assert np.count_nonzero(stray) <= len(stray) // 500 and (stray < 64).all(), "nothing is painted beside the shape"
    solid = mask.weights[core]
    assert np.count_nonzero(solid < 255) <= max(2, len(solid) // 30), "all of the shape is painted"
    assert (solid > 191).all()
    assert np.mean((mask.weights > 127) != shape) < 0.01
    assert any("noise" in sentence for sentence in mask.conversions)


@pytest.mark.parametrize("kind", ["a ground that is not quite black", "a noisy ground", "a ground that slopes"])
def test_auto_crops_around_what_is_drawn_and_not_around_the_ground(kind: str) -> None:
    shape = np.zeros((HEIGHT, WIDTH), bool)
    shape[30:40, 50:60] = True
    data, _ = EXACT[kind](shape, np.random.default_rng(0))
    x0, y0, x1, y1 = place((WIDTH, HEIGHT), read(data).weights, native=32, crop="auto").box
    assert (x1 - x0) * (y1 - y0) < WIDTH * HEIGHT / 4


# ------------------------------------------------------------------------------------------ refused, with what helps

BOX = mask_array(HEIGHT, WIDTH, (30, 20, 70, 60))
OTHER = mask_array(HEIGHT, WIDTH, (80, 20, 100, 60))


def labels(*colours: tuple[int, int, int]) -> Array:
    """The box in the second colour, a smaller one beside it in the third, on the first."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = colours[0]
    picture[BOX > 0] = colours[1]
    if len(colours) > 2:
        picture[OTHER > 0] = colours[2]
    return picture


def opaque_ground(level: int) -> bytes:
    return file_of(np.dstack((np.full_like(BOX, level), 255 - BOX)))


REFUSED: dict[str, tuple[Callable[[], bytes], str, list[tuple[dict[str, Any], Array]]]] = {
    "class numbers": (
        lambda: file_of(np.maximum(BOX // 255, OTHER // 255 * 3)),
        r"highest level is 3 of 255.*mask_threshold 1 ",
        [({"threshold": 1}, BOX | OTHER), ({"threshold": 3}, OTHER), ({"threshold": 0}, BOX // 255 | OTHER // 255 * 3)],
    ),
    "class numbers in 16 bits": (
        lambda: png(np.maximum(BOX // 255, OTHER // 255 * 3).astype(np.uint16), bits=16),
        r"highest level is 3 of 255.*mask_threshold 1 ",
        [({"threshold": 1}, BOX | OTHER), ({"threshold": 2}, OTHER)],
    ),
    "a faint soft mask": (
        lambda: file_of(cv2.GaussianBlur(BOX // 5, (0, 0), 20)),
        r"highest level is \d+ of 255.*mask_threshold",
        [({"threshold": 0}, cv2.GaussianBlur(BOX // 5, (0, 0), 20))],
    ),
    "one level everywhere": (
        lambda: file_of(np.ones_like(BOX)),
        "level 1 of 255 everywhere.*mask_threshold 1 ",
        [({"threshold": 1}, np.full_like(BOX, 255))],
    ),
    "two labels": (
        lambda: file_of(labels((0, 0, 0), (128, 0, 0), (0, 128, 0))),
        r"several colours \(black, #800000, #008000\).*mask_channel",
        [({"channel": "red"}, BOX), ({"channel": "green", "threshold": 1}, OTHER)],
    ),
    "a label with a void around it": (
        lambda: file_of(labels((0, 0, 0), (128, 0, 0), (224, 224, 192))),
        r"several colours .*#e0e0c0.*mask_threshold",
        [({"channel": "red", "threshold": 200}, OTHER), ({"channel": "red", "threshold": 1}, BOX | OTHER)],
    ),
    "two colours, neither of them a ground": (
        lambda: file_of(labels((0, 128, 0), (255, 0, 0))),
        "two colours, #008000 and #ff0000.*mask_channel red or green",
        [({"channel": "red"}, BOX), ({"channel": "green"}, 255 - BOX)],
    ),
    "white on a coloured ground": (
        lambda: file_of(labels((255, 0, 0), (255, 255, 255))),
        "white and #ff0000, and either.*mask_channel green or blue",
        [({"channel": "green"}, BOX), ({"channel": "blue", "invert": True}, 255 - BOX)],
    ),
    "a photo": (
        lambda: file_of(photo(np.random.default_rng(1))),
        "several colours.*draw what to replace in white on black",
        [],
    ),
    "white with a transparent part": (
        lambda: opaque_ground(255),
        "white with a transparent part.*mask_channel alpha.*mask_invert",
        [({"channel": "alpha"}, 255 - BOX), ({"channel": "alpha", "invert": True}, BOX)],
    ),
    "black with a transparent part": (
        lambda: opaque_ground(0),
        "black with a transparent part.*mask_channel alpha.*mask_invert",
        [({"channel": "alpha"}, 255 - BOX), ({"channel": "alpha", "invert": True}, BOX)],
    ),
    "drawn in two colours on transparent": (
        lambda: file_of(np.dstack((labels((0, 0, 0), (255, 0, 0), (0, 0, 255)), BOX | OTHER))),
        "several colours and is transparent elsewhere: give mask_channel alpha",
        [({"channel": "alpha"}, BOX | OTHER), ({"channel": "alpha", "invert": True}, 255 - (BOX | OTHER))],
    ),
    "wholly transparent": (
        lambda: file_of(np.dstack((BOX, np.zeros_like(BOX)))),
        "wholly transparent.*mask_channel luma",
        [({"channel": "luma"}, BOX)],
    ),
    "red everywhere": (lambda: file_of(labels((255, 0, 0), (255, 0, 0))), "#ff0000 everywhere", []),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_mean_two_things_is_refused_and_the_cure_cures(case: str) -> None:
    make, says, cures = REFUSED[case]
    with pytest.raises(MaskError, match=says) as caught:
        read(make())
    assert "\n" not in str(caught.value) and str(caught.value).startswith("the mask")
    for options, expected in cures:
        assert np.array_equal(read(make(), **options).weights, expected), options


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (file_of(np.zeros_like(BOX)), {}, "masks nothing, every pixel of it is black: paint"),
        (file_of(np.zeros_like(BOX)), {"invert": True}, "mask_invert would paint the whole image"),
        (file_of(np.full_like(BOX, 255)), {"invert": True}, "masks nothing.*leave out mask_invert"),
        (file_of(BOX // 2), {"threshold": 200}, "no level of it reaches mask_threshold 200"),
        (file_of(BOX), {"channel": "alpha"}, "no alpha channel"),
        (file_of(np.dstack((BOX, np.full_like(BOX, 255)))), {"channel": "alpha"}, "alpha is 255 everywhere"),
        (file_of(labels((255, 255, 255), (255, 0, 0))), {"channel": "red"}, "red channel is 255 everywhere"),
    ],
)
def test_a_mask_that_says_nothing_is_refused(data: bytes, options: dict[str, Any], says: str) -> None:
    with pytest.raises(MaskError, match=says):
        read(data, **options)


def test_a_mask_that_is_white_everywhere_paints_everything() -> None:
    assert (read(file_of(np.full_like(BOX, 255))).weights == 255).all()
    assert (read(file_of(np.full_like(BOX, 250), "JPEG")).weights == 255).all()


def test_gray_regions_are_blended_and_said() -> None:
    trimap = np.maximum(BOX, OTHER // 2)
    mask = read(file_of(trimap))
    assert np.array_equal(mask.weights, trimap)
    assert any("level 127 (49 %)" in sentence for sentence in mask.conversions)
    gray = photo(np.random.default_rng(2))[..., 0]
    assert any("a photo is not" in sentence for sentence in read(file_of(gray)).conversions)


def test_channels_count_whatever_the_alpha() -> None:
    picture = np.dstack((BOX, OTHER, 255 - BOX, np.full_like(BOX, 7)))
    for channel, expected in (("red", BOX), ("green", OTHER), ("blue", 255 - BOX)):
        assert np.array_equal(read(file_of(picture), channel=channel).weights, expected)


def test_thresholds_divide_levels_exactly() -> None:
    ramp = np.tile(np.arange(WIDTH, dtype=np.uint8) * 2, (HEIGHT, 1))
    for threshold in (1, 2, 100, 238):
        assert np.array_equal(read(file_of(ramp), threshold=threshold).weights, full(ramp >= threshold))
        wide = png(ramp.astype(np.uint16) * 257, bits=16)
        assert np.array_equal(read(wide, threshold=threshold).weights, full(ramp >= threshold))


@pytest.mark.parametrize("size", [(60, 45), (240, 180), (119, 90)])
def test_a_mask_of_the_same_aspect_is_scaled_where_that_is_wanted(size: tuple[int, int]) -> None:
    shape = Image.fromarray(BOX).resize(size, Image.Resampling.NEAREST)
    with pytest.raises(MaskError, match=r"make the mask the size of the image, or set INPAINT_MASK_RESIZE=nearest"):
        read(file_of(shape))
    mask = read(file_of(shape), resize=True)
    assert set(np.unique(mask.weights)) == {0, 255}
    assert np.mean(mask.weights != BOX) < 0.02
    assert mask.conversions == (
        f"the mask was scaled from {size[0]}x{size[1]} to the image's 120x90, by nearest pixel",
    )


def test_a_mask_of_another_aspect_is_never_scaled() -> None:
    for size in ((90, 120), (120, 60), (100, 90)):
        with pytest.raises(MaskError, match=r"image is 120x90(?!.*RESIZE)"):
            read(file_of(Image.fromarray(BOX).resize(size)), resize=True)
