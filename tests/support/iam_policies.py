"""The policies in `deploy/iam/`, and which calls they grant; only what our files use is understood."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "iam"
ROLES = ("submit", "tasks", "paint", "pages", "deliver", "housekeeping")


def policy(role: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((POLICIES / f"{role}.json").read_text())
    return loaded


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def actions(role: str) -> list[str]:
    return sorted({action for statement in policy(role)["Statement"] for action in listed(statement["Action"])})


def without(role: str, action: str) -> dict[str, Any]:
    """The role's policy less one action."""
    kept = [statement for statement in policy(role)["Statement"] if listed(statement["Action"]) != [action]]
    assert len(kept) < len(policy(role)["Statement"])
    return policy(role) | {"Statement": kept}


@dataclass(frozen=True)
class Call:
    """One request, in the words of IAM."""

    action: str
    resource: str
    prefix: str | None = None


def call_of(method: str, path: str) -> Call:
    split = urlsplit(path)
    bucket, _, key = unquote(split.path).removeprefix("/").partition("/")
    query = parse_qs(split.query, keep_blank_values=True)
    if not key:
        assert method == "GET", (method, path)
        kind = "s3:ListBucketMultipartUploads" if "uploads" in query else "s3:ListBucket"
        return Call(kind, f"arn:aws:s3:::{bucket}", query.get("prefix", [""])[0])
    kinds = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
    kind = "s3:AbortMultipartUpload" if "uploadId" in query else kinds.get(method, "s3:PutObject")
    return Call(kind, f"arn:aws:s3:::{bucket}/{key}")


def matches(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def grants(statement: dict[str, Any], call: Call) -> bool:
    """Whether an `Allow` statement covers the call, as IAM would say; only what our files use is understood."""
    assert statement["Effect"] == "Allow"
    if call.action not in listed(statement["Action"]):
        return False
    prefixes = statement.get("Condition", {"StringLike": {"s3:prefix": ["*"]}})["StringLike"]["s3:prefix"]
    return any(matches(one, call.resource) for one in listed(statement["Resource"])) and (
        call.prefix is None or any(matches(one, call.prefix) for one in prefixes)
    )
