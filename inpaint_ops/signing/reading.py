"""What the Content Credentials of an image say, by the library's own reader."""

from __future__ import annotations

import importlib.util
import io
import json
from typing import Any

from inpaint_ops.signing.manifest import LIBRARY_SETTINGS

_MARKS = (b"c2pa.claim", b"urn:c2pa:", b"urn:uuid:")
"""What stands in the clear in every manifest store."""


def read_credentials(data: bytes, media_type: str) -> dict[str, Any] | None:
    """What the newest manifest in a file says, and whether file and signature are unchanged; None where it has none.

    `state` is Invalid (file, manifest or signature was changed), Valid (unchanged; whether the signer is to be trusted
    is not looked up) or Unknown, with what to install. An address that the file names is not called.
    """
    if importlib.util.find_spec("c2pa") is None:
        if _MARKS[0] not in data:
            return None
        return {"state": "Unknown: a manifest is there; install the extra inpaint-ops[c2pa] to have it read"}
    import c2pa

    try:
        context = c2pa.Context.from_dict(LIBRARY_SETTINGS)
        reader = c2pa.Reader.try_create(media_type, io.BytesIO(data), context=context)
    except c2pa.C2paError as error:
        return {"state": f"Invalid: {error}"} if any(mark in data for mark in _MARKS) else None
    if reader is None:
        return None
    found = json.loads(reader.json())
    active = found["manifests"][found["active_manifest"]]
    by = active.get("signature_info", {})
    return {
        "state": str(reader.get_validation_state()),
        "manifest": found["active_manifest"],
        "signed by": ", ".join(filter(None, (by.get("common_name"), by.get("issuer")))) or "unknown",
        "algorithm": by.get("alg", "unknown"),
        "timestamp": by.get("time", "none"),
        "made by": "; ".join(_tool(one) for one in active.get("claim_generator_info", ())) or "unknown",
        "actions": "; ".join(_action(one) for one in _actions(active)) or "none",
        "ingredients": "; ".join(_ingredient(one) for one in active.get("ingredients", ())) or "none",
        "findings": ", ".join(one["code"] for one in found.get("validation_status", ())) or "none",
    }


def _actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        action
        for assertion in manifest.get("assertions", ())
        if assertion.get("label", "").startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", ())
    ]


def _tool(info: dict[str, Any]) -> str:
    return f"{info.get('name', '')} {info.get('version', '')}".strip()


def _action(action: dict[str, Any]) -> str:
    kind = str(action.get("digitalSourceType", "")).rsplit("/", 1)[-1]
    changes = ", ".join(str(one.get("description", "")) for one in action.get("changes") or ())
    return " ".join(filter(None, (action.get("action"), f"({kind})" if kind else "", changes)))


def _ingredient(one: dict[str, Any]) -> str:
    return f"{one.get('title', '')} ({one.get('relationship', '')}) {one.get('description', '')}".strip()
