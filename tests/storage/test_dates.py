"""Dates of replies are read as botocore reads them, whichever way is the faster one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.utils import parse_timestamp

from demo.object_store import ObjectStoreServer
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import _read_moment, make_s3_client


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-26T10:11:12.000Z", "2026-11-26T10:11:12Z", "2026-11-26T10:11:12.123456789Z", "20261126T101112Z",
        "2026-11-26T10:11:12.5+02:00", "2026-11-26T10:11:12", "2026-11-26", "1700000000", "1700000000.5", "0",
        "Wed, 12 Oct 2009 17:50:00 GMT",
    ],
)  # fmt: skip
def test_a_date_is_what_botocore_makes_of_it(text: str) -> None:
    assert _read_moment(text) == parse_timestamp(text)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_what_botocore_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        _read_moment(text)


def test_a_listing_has_the_time_that_a_look_at_the_object_has(
    object_store: ObjectStoreServer, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.env.items():
        monkeypatch.setenv(name, value)
    storage = Storage([], [s3_prefix], make_s3_client)
    where = Location(s3_prefix.bucket, s3_prefix.key + "cup.png")
    storage.put(where, b"cup")
    listed = next(storage.list(s3_prefix))
    assert listed.modified.tzinfo is UTC
    assert abs(listed.modified - storage.stat(where).modified).total_seconds() <= 1
    assert datetime(2020, 1, 1, tzinfo=UTC) < listed.modified
