"""The network of the LPIPS distance: what it is given, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from inpaint_ops.errors import ModelError, NonFiniteImageError
from inpaint_ops.images import Lpips
from inpaint_ops.images.lpips import SIDE
from tests.support.onnx_files import lama, lpips


def plain(level: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), level, np.uint8)


def test_equal_pictures_are_0_apart_and_the_others_by_what_the_network_says() -> None:
    network = Lpips(lpips(), "mine.onnx")
    assert network.distance(plain(77), plain(77)) == 0
    assert network.distance(plain(0), plain(255)) == pytest.approx(4, rel=2e-3), "it sees -1 and 1, as lpips does"
    assert network.distance(plain(100), plain(151)) == pytest.approx((51 / 127.5) ** 2, rel=2e-3)
    red, blue = plain(0), plain(0)
    red[..., 0], blue[..., 2] = 255, 255
    assert network.distance(red, blue) == pytest.approx(4 * 2 / 3, rel=2e-3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"hello " * 400, "is no ONNX file that OpenCV can read"),
        (lpips()[:300], "is no ONNX file that OpenCV can read"),
        (lpips(source="in0"), "cannot be run .*'source' is not found.*it must take `source`"),
        (lama(), "cannot be run .*it must take `source`"),
        (lpips(whole=True), "cannot be run .its result is .1, 1, 256, 256.*give back one number"),
        (lpips(nan=True), "gives NaN or infinity"),
        (lpips(offset=0.3), "gives 0.3 for two equal pictures, not 0"),
        (lpips(factor=0), "gives 0 and 0 for two unlike pictures, which is no distance"),
        (lpips(factor=-1), "gives -.* for two unlike pictures, which is no distance"),
        (lpips(factor=1e6), "gives .* for two unlike pictures, which is no distance"),
        (lpips() + b"location", "names other files .`location`. for its weights, and none is opened"),
    ],
    ids="empty text cut inputs lama shape nan offset nought negative huge elsewhere".split(),
)
def test_what_is_no_such_network_is_refused_in_one_line_with_the_cure(data: bytes, why: str) -> None:
    with pytest.raises(ModelError, match=f"^mine.onnx {why}") as caught:
        Lpips(data, "mine.onnx")
    assert "\n" not in str(caught.value) and "give --lpips-model an LPIPS network in ONNX" in str(caught.value)


def test_nan_for_one_picture_is_no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Lpips(lpips(), "mine.onnx")
    monkeypatch.setattr(network, "_run", lambda _source, _result: float("nan"))
    with pytest.raises(NonFiniteImageError, match="NaN or infinity"):
        network.distance(plain(0), plain(1))
