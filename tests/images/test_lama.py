"""The network of fill `lama`: what it is given and gives back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from inpaint_ops.errors import ConfigError, ModelError, NonFiniteImageError
from inpaint_ops.images import Lama, Placement, fill_masked
from tests.support.onnx_files import lama

COLOUR = (230, 120, 40)


@pytest.fixture(scope="module")
def network() -> Lama:
    return Lama(lama(), "lama.onnx")


def damaged(height: int, width: int, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray, Placement]:
    """A picture of one colour, with another one where it is masked: canvas, mask, placement."""
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    rgb = np.full((height, width, 3), COLOUR, np.uint8)
    rgb[mask > 0] = (5, 250, 250)
    return rgb, mask, Placement((0, 0, width, height), (width, height), (0, 0, width, height))


@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (64, 64), (256, 1024), (1152, 896), (40, 333)])
def test_the_hole_is_filled_from_its_surroundings_in_the_order_and_range_of_the_picture(
    network: Lama, size: tuple[int, int]
) -> None:
    height, width = size
    rgb, mask, placement = damaged(height, width, (width // 3, height // 3, width // 3 + 9, height // 3 + 9))
    filled, notes = fill_masked(rgb, mask, placement, "lama", 0, network)
    assert not notes and np.array_equal(filled[mask == 0], rgb[mask == 0])
    assert np.abs(filled[mask > 0].astype(int) - COLOUR).max() <= 2


def test_colours_go_on_where_they_are_and_not_elsewhere(network: Lama) -> None:
    """Left red, right blue, cut by a hole: what is scaled, mirrored or shifted wrongly is seen."""
    rgb = np.zeros((384, 640, 3), np.uint8)
    rgb[:, :320], rgb[:, 320:] = (200, 10, 10), (10, 10, 200)
    mask = np.zeros((384, 640), np.uint8)
    mask[300:330, 100:120] = mask[300:330, 520:540] = 255
    placement = Placement((0, 0, 640, 384), (640, 384), (0, 0, 640, 384))
    filled, _ = fill_masked(np.where(mask[..., None] > 0, np.uint8(255), rgb), mask, placement, "lama", 0, network)
    assert np.abs(filled.astype(int) - rgb).max() <= 2


def test_what_lies_under_the_mask_has_no_part_in_it(network: Lama) -> None:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (300, 421, 3), np.uint8)
    mask = np.zeros((300, 421), np.uint8)
    mask[:150, 200:] = 255
    placement = Placement((0, 0, 421, 300), (421, 300), (0, 0, 421, 300))
    one, _ = fill_masked(rgb, mask, placement, "lama", 0, network)
    other, _ = fill_masked(np.where(mask[..., None] > 0, 255 - rgb, rgb), mask, placement, "lama", 0, network)
    assert np.array_equal(one, other)


def test_results_of_0_to_1_are_found_to_be_that() -> None:
    found = Lama(lama(top=1), "lama.onnx")
    rgb, mask, placement = damaged(128, 128, (40, 40, 80, 80))
    filled, _ = fill_masked(rgb, mask, placement, "lama", 0, found)
    assert np.abs(filled[mask > 0].astype(int) - COLOUR).max() <= 2
    assert str(found).endswith("its result is 0 to 1") and "0 to 255" in str(Lama(lama(), "lama.onnx"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"hello " * 400, "is no ONNX file that OpenCV can read"),
        (b"PK\x03\x04" + bytes(1000), "is no ONNX file that OpenCV can read"),
        (lama()[:700], "is no ONNX file that OpenCV can read"),
        (lama(unknown=True), "has operators that OpenCV"),
        (lama(image="x"), "cannot be run .*'image' is not found.*it must take `image`"),
        (lama(mask="hole"), "cannot be run .*'mask' is not found"),
        (lama(channels=1), "cannot be run .its result is .1, 1, 512, 512.*it must take `image`"),
        (lama(nan=True), "gives NaN or infinity"),
        (lama(swapped=True), "changes the picture beside the mask"),
        (lama(keeps=True), "changes the picture beside the mask"),
        (lama(top=17), "changes the picture beside the mask"),
        (lama(elsewhere="/etc/hostname"), "names other files .`location`. for its weights, and none is opened"),
        (lama(elsewhere="/etc/hostname").replace(b"\n\x08location", b"\n\x88\x00location"), "names other files"),
    ],
    ids="empty text zip cut operator image mask gray nan bgr polarity range elsewhere disguised".split(),
)
def test_what_is_no_such_network_is_refused_in_one_line_with_the_cure(data: bytes, why: str) -> None:
    with pytest.raises(ModelError, match=f"^mine.onnx {why}") as caught:
        Lama(data, "mine.onnx")
    assert "\n" not in str(caught.value) and "give --fill-model a LaMa in ONNX" in str(caught.value)


def test_a_network_that_leaves_the_hole_as_it_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lama, "_run", lambda _self, picture, _masked: picture * 255)
    with pytest.raises(ModelError, match="leaves the masked area as it is"):
        Lama(lama(), "mine.onnx")


def test_nan_for_one_row_fails_that_row(network: Lama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_run", lambda picture, _masked: picture * np.nan)
    rgb, mask, placement = damaged(64, 64, (20, 20, 30, 30))
    with pytest.raises(NonFiniteImageError, match="use another fill"):
        fill_masked(rgb, mask, placement, "lama", 0, network)


def test_without_a_network_there_is_no_such_fill() -> None:
    rgb, mask, placement = damaged(64, 64, (20, 20, 30, 30))
    with pytest.raises(ConfigError, match="--fill-model"):
        fill_masked(rgb, mask, placement, "lama", 0)


def test_a_mask_that_leaves_nothing_around_it_is_gray(network: Lama) -> None:
    rgb, mask, placement = damaged(64, 64, (0, 0, 64, 64))
    filled, notes = fill_masked(rgb, mask, placement, "lama", 0, network)
    assert (filled == 128).all() and notes == ("fill lama is gray: nothing is left around the mask",)
