"""A page of a listing that is read the faster way says what botocore reads in it, and fails where botocore does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config

from inpaint_ops.errors import StorageError
from inpaint_ops.storage import ObjectInfo
from tests.support.scripted_store import BUCKET, Reply, ScriptedStore

READ = ("Key", "Size", "ETag", "LastModified")
DATE = "<LastModified>2026-01-02T03:04:05.678Z</LastModified>"
OWNER = "<Owner><ID>7</ID><DisplayName>a studio</DisplayName></Owner><StorageClass>STANDARD</StorageClass>"
CUP = f"<Contents><Key>a/cup.png</Key>{DATE}<ETag>&#34;0a&#34;</ETag><Size>12</Size>{OWNER}</Contents>"
END = "<IsTruncated>false</IsTruncated>"


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    with ScriptedStore() as running:
        yield running


def page(inner: str, root: str = "ListBucketResult") -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{inner}</{root.split()[0]}>'.encode()


def by_botocore(store: ScriptedStore) -> Any:
    session = boto3.session.Session("scripted", "scripted", region_name="us-east-1")
    config = Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "total_max_attempts": 1})
    return session.client("s3", endpoint_url=store.url, config=config)


def said(client: Any) -> tuple[dict[str, Any], set[str]]:
    """What a client makes of the page, of objects what the product reads; and all that it says of any object."""
    reply = client.list_objects_v2(Bucket=BUCKET)
    objects = reply.pop("Contents", [])
    reply.pop("ResponseMetadata")
    kept = [{name: item[name] for name in READ if name in item} for item in objects]
    return reply | {"Contents": kept}, {name for item in objects for name in item}


PAGES = {
    "as S3 writes it": page(
        f"<Name>b</Name><Prefix/><KeyCount>2</KeyCount>{END}{CUP}{CUP}",
        'ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"',
    ),
    "in no namespace, the objects first": page(CUP + END),
    "keys in the encoding of URLs": page(
        END + "<EncodingType>url</EncodingType>" + CUP.replace("a/cup", "gr%C3%BC+%2Bn%25%0A") + CUP
    ),
    "keys as they are": page(END + CUP.replace("a/cup", "grü+n%25 &amp;&lt;")),
    "folders and a token": page(
        "<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b/+=</NextContinuationToken>"
        + CUP
        + "<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes><CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>"
    ),
    "a folder's mark, without an ETag": page(END + f"<Contents><Key>a/</Key><Size>0</Size>{DATE}</Contents>"),
    "no size": page(END + f"<Contents><Key>a</Key>{DATE}</Contents>"),
    "an empty key": page(END + f"<Contents><Key/>{DATE}<Size>1</Size></Contents>"),
    "a date of HTTP": page(
        END
        + "<Contents><Key>a</Key><Size>1</Size><LastModified>Thu, 01 Jan 2026 00:00:00 GMT</LastModified></Contents>"
    ),
    "a size beyond 64 bits": page(END + CUP.replace(">12<", ">36893488147419103232<")),
    "spaces around a size": page(END + CUP.replace(">12<", "> 12 <")),
    "no objects": page(END),
    "nothing": page(""),
}
ODD = {
    "a size that is none": page(END + CUP.replace(">12<", ">twelve<")),
    "an empty size": page(END + CUP.replace(">12<", "><")),
    "a date that is none": page(END + CUP.replace("2026-01-02T", "noon")),
    "cut off": page(END + CUP)[:-40],
    "an error that says 200": page("<Code>SlowDown</Code><Message>wait</Message>", "Error"),
    "an error with objects in it": page("<Code>SlowDown</Code><Message>wait</Message>" + CUP, "Error"),
    "an object without a key": page(END + f"<Contents>{DATE}<Size>1</Size></Contents>"),
    "another document": page(END + CUP, "ListAllMyBucketsResult"),
    "an entity": b'<!DOCTYPE x [<!ENTITY e "eeee">]>' + page(END + CUP.replace("cup", "&e;"))[39:],
    "an entity that is not declared": page(END + CUP.replace("cup", "&e;")),
    "another encoding": page(END + CUP.replace("cup", "grün")).decode().encode("latin-1"),
    "no XML": b"welcome",
}


@pytest.mark.parametrize("body", PAGES.values(), ids=PAGES)
def test_a_page_says_what_botocore_reads_in_it(store: ScriptedStore, body: bytes) -> None:
    store.script = lambda _: Reply(200, body, {"Content-Type": "application/xml"})
    assert said(store.client())[0] == said(by_botocore(store))[0]


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_what_is_not_as_expected_is_read_or_refused_as_botocore_does(store: ScriptedStore, body: bytes) -> None:
    store.script = lambda _: Reply(200, body, {"Content-Type": "application/xml"})
    found: list[object] = []
    for client in (store.client(), by_botocore(store)):
        try:
            found.append(said(client)[0])
        except Exception as error:
            found.append((type(error).__name__, str(error)))
    assert found[0] == found[1]


def test_of_an_object_nothing_else_is_read(store: ScriptedStore) -> None:
    """Or the page was read by botocore after all, at three times the cost."""
    store.script = lambda _: Reply(200, PAGES["as S3 writes it"])
    assert said(store.client())[1] == set(READ)
    assert said(by_botocore(store))[1] > set(READ)


def test_an_error_beside_a_listing_is_botocores(store: ScriptedStore) -> None:
    store.script = lambda _: Reply(403, page("<Code>AccessDenied</Code><Message>no</Message>", "Error"))
    with pytest.raises(StorageError, match="AccessDenied"):
        list(store.storage().list(f"s3://{BUCKET}/"))


def test_pages_follow_each_other_by_their_tokens(store: ScriptedStore) -> None:
    def script(request: Any) -> Reply:
        if request.query.get("continuation-token") == ["2&+"]:
            return Reply(200, page(END + CUP.replace("a/cup", "b/cup")))
        more = "<IsTruncated>true</IsTruncated><NextContinuationToken>2&amp;+</NextContinuationToken>"
        return Reply(200, page(more + CUP))

    store.script = script
    found = list(store.storage().list(f"s3://{BUCKET}/"))
    assert [info.location.key for info in found] == ["a/cup.png", "b/cup.png"]
    first = found[0]
    assert isinstance(first, ObjectInfo)
    assert (first.size, first.etag, first.modified) == (12, "0a", datetime(2026, 1, 2, 3, 4, 5, 678000, UTC))
