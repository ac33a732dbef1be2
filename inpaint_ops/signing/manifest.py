"""What a manifest says of an image, as C2PA 2.2 asks: opened from its source, then edited by a trained model."""

from __future__ import annotations

from typing import Any

from inpaint_ops.signing.signer import Claim

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_SOURCE = "source"
"""The source's ingredient, by the name that the actions refer to it by."""

LIBRARY_SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
"""No picture is decoded for a thumbnail, and no address is called that an image names."""


def definition(claim: Claim, source_sha256: str) -> dict[str, Any]:
    """The manifest's definition, less its ingredient. An action of `c2pa.opened` comes first, as for all that has a
    parent; what has none would begin with `c2pa.created`.
    """
    edited: dict[str, Any] = {
        "action": "c2pa.edited",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": {"name": claim.tool, "version": claim.version},
        "description": "The masked area was painted by a trained model; all other pixels are the source's.",
    }
    if claim.box is not None:
        x0, y0, x1, y1 = claim.box
        edited["changes"] = [
            {
                "description": f"The mask's bounding box; it covers {claim.share or 0:.2%} of the image",
                "region": [
                    {
                        "type": "spatial",
                        "shape": {
                            "type": "rectangle", "unit": "pixel", "origin": {"x": float(x0), "y": float(y0)},
                            "width": float(x1 - x0), "height": float(y1 - y0), "inside": True,
                        },
                    }
                ],
            }
        ]  # fmt: skip
    actions = [{"action": "c2pa.opened", "parameters": {"ingredientIds": [_SOURCE]}}, edited]
    return {
        "claim_generator_info": [{"name": claim.tool, "version": claim.version}],
        "title": claim.title,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions, "allActionsIncluded": True}},
            {"label": "org.inpaint-ops.source", "data": {"alg": "sha256", "hash": source_sha256}},
        ],
    }


def ingredient(claim: Claim, source_sha256: str) -> dict[str, Any]:
    """The source, as what the image was made of."""
    return {
        "title": claim.source_title,
        "relationship": "parentOf",
        "instance_id": _SOURCE,
        "description": f"SHA-256 of the file: {source_sha256}",
    }
