"""A finished run as people hand it on: its images under their names, a list of digests, a contact sheet.

`deliver` reads `results.jsonl`, puts the images into a folder, a prefix of a store or a ZIP file, and then what
describes them: a contact sheet, `contents.jsonl` (a line per row), `delivery.json`, and `SHA256SUMS` last. Until then
`delivery.json` says "under way".
"""

from inpaint_ops.delivering.deliver import Delivery, deliver, zip_stream
from inpaint_ops.delivering.links import Linked, deliver_link
from inpaint_ops.delivering.permitted import permitted_place, permitted_prefixes
from inpaint_ops.delivering.sheet import Sheet
from inpaint_ops.delivering.targets import check_target

__all__ = [
    "Delivery",
    "Linked",
    "Sheet",
    "check_target",
    "deliver",
    "deliver_link",
    "permitted_place",
    "permitted_prefixes",
    "zip_stream",
]
