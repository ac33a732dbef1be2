"""What several processes read of a manifest is what one reads of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, RowDefaults, read_parts, sharing
from tests.support.child_processes import KillsOne, children

MODULE = "inpaint_ops.manifest.reading_process"
PHOTOS = Location("bucket", "photos/")
LIMITS = ManifestLimits(max_rows=2000, max_row_bytes=3000)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_LINES", 7)


def _is_allowed(place: Location) -> bool:
    return PHOTOS.contains(place)


def _read(text: bytes, name: str = "m.jsonl", *, may_share: bool, **options: Any) -> ParsedManifest:
    return read_parts(
        [(name, text)], folder=PHOTOS, is_allowed=_is_allowed, limits=LIMITS, may_share=may_share, **options
    )


def _shared(monkeypatch: pytest.MonkeyPatch, text: bytes, **options: Any) -> ParsedManifest:
    monkeypatch.setattr(sharing, "processes_for", lambda rows, fewest: 2)
    return _read(text, may_share=True, **options)


def _row(number: int, **more: Any) -> bytes:
    row = {"image": f"{number % 40}/shoe é.png", "mask": f"{number}.png", "prompt": f"a shoe {number}", **more}
    return json.dumps({name: value for name, value in row.items() if value is not None}).encode()


KINDS: tuple[Callable[[int], bytes], ...] = (
    _row,
    lambda at: _row(at, id=f"shoe-{at}", seed=at, guidance_scale=7, extra={"sku": at, "tags": ["a", 1.5, None]}),
    lambda at: _row(at, id="the same"),
    lambda at: _row(at, id=f"Shoe-{at - 17}"),
    lambda at: _row(at, id=f"{at}.0"),
    lambda at: _row(at, image=f"sub\\{at}.png", mask=f"./{at}.png"),
    lambda at: _row(at, image=f"s3://elsewhere/{at}.png"),
    lambda at: _row(at, image=f"s3://bucket/photos/{at}.png", format="jpeg"),
    lambda at: _row(at, mask="../secret.png"),
    lambda at: _row(at, steps=0, id=f"bad-{at}"),
    lambda at: _row(at, colour="red"),
    lambda at: _row(at, **{"Unnamed: 0": at}),
    lambda at: _row(at, prompt=None),
    lambda at: _row(at, prompt="x" * 4000),
    lambda at: b"",
    lambda at: b"{",
    lambda at: b'{"image": "\xff"}',
    lambda at: b"[1]",
    lambda at: b'{"image": "a", "image": "b"}',
)
MIXED = b"\n".join(KINDS[at * at % len(KINDS) if at % 3 else 0](at) for at in range(1000))


@pytest.mark.parametrize("defaults", [None, RowDefaults(prompt="a pair of {extra.sku}", format="webp")])
def test_it_is_what_one_process_reads(monkeypatch: pytest.MonkeyPatch, defaults: RowDefaults | None) -> None:
    alone = _read(MIXED, may_share=True, defaults=defaults)  # too few for others
    assert len(alone.accepted) > 300 and len(alone.rejected) > 200 and len(alone.notes) > 2
    shared = _shared(monkeypatch, MIXED, defaults=defaults)
    assert (shared.accepted, shared.rejected) == (alone.accepted, alone.rejected)
    assert set(shared.notes) == set(alone.notes)
    assert not children(MODULE)


def test_others_do_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"\n".join(_row(at) for at in range(100))
    monkeypatch.setattr("inpaint_ops.manifest.reading.validate", None)
    assert len(_shared(monkeypatch, lines).accepted) == 100


def test_rows_of_a_process_that_is_killed_are_read_without_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone, kill, pieces = _read(MIXED, may_share=False), KillsOne(MODULE), sharing._pieces

    def and_kill(lines: Any) -> Any:
        for number, piece in enumerate(pieces(lines)):
            if number == 9:
                kill()
            yield piece

    monkeypatch.setattr(sharing, "_pieces", and_kill)
    shared = _shared(monkeypatch, MIXED)
    assert (shared.accepted, shared.rejected) == (alone.accepted, alone.rejected)
    assert kill.pid and f"process {kill.pid}, which had some of the rows, was ended by SIGKILL" in caplog.text
    assert not children(MODULE)


def test_too_many_rows_end_the_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ManifestError, match="INPAINT_MAX_ROWS"):
        _shared(monkeypatch, b"\n".join(_row(at) for at in range(LIMITS.max_rows + 1)))
    assert not children(MODULE)


def test_a_number_of_rows_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_shared", None)
    assert len(_shared(monkeypatch, MIXED, row_limit=50).accepted) > 10
