"""What the real worker makes of prompts, and what it writes of them into images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from inpaint_ops.protocol import Done, End
from tests.support.worker_talk import Talk, fork, job, picture

__all__ = ["fork"]

LONG = "boats " * 70
"""350 tokens of the tiny model, which has one per letter: 300 are read."""


def test_long_prompts_are_read_in_chunks_and_what_is_cut_is_said(fork: Callable[[], Talk], tmp_path: Path) -> None:
    talk = fork()
    talk.send(job(tmp_path, provenance="mark"))
    for row, prompt in enumerate(("short", "boats " * 20 + "red", "boats " * 20 + "tan", LONG + "end"), 1):
        talk.send(picture(tmp_path, row, (64, 64)).model_copy(update={"prompt": prompt}))
    talk.send(End())
    done = {event.row: event for event in talk.until(lambda: len(talk.all(Done)) == 4 and talk.all(Done))}
    assert [done[row].conversions for row in (1, 2, 3)] == [(), (), ()]
    assert done[4].conversions[0].endswith("boats end")
    assert "over 300 tokens" in done[4].conversions[0]
    assert len({done[row].batch.id for row in (1, 2, 4)}) == 3, "rows of equally many chunks are painted together"
    for event in done.values():
        with Image.open(event.output) as opened:
            assert "compositeWithTrainedAlgorithmicMedia" in opened.info["XML:com.adobe.xmp"]
            assert "boats" not in str(opened.info)
