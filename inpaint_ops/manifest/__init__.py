"""What the user wrote: rows, read from JSONL, CSV, Parquet or Excel, and separated into accepted and rejected.

A bad row is rejected with its line, the field and the cure; the others go on. Only a file that cannot be read at all
raises ManifestError.
"""

from inpaint_ops.manifest.formats import (
    MANIFEST_ENDINGS,
    ManifestLimits,
    manifest_ending,
)
from inpaint_ops.manifest.output_names import (
    OutputNames,
    TakenNames,
    check_apart,
    check_template,
    folder_of,
    why_no_name,
)
from inpaint_ops.manifest.reading import (
    read_manifest,
    read_parts,
)
from inpaint_ops.manifest.rows import (
    MAX_SEED,
    STEPS,
    AcceptedRow,
    ParsedManifest,
    Quality,
    RejectedRow,
    Row,
    is_valid_id,
    to_jsonl,
    write_jsonl,
)
from inpaint_ops.manifest.templates import RowDefaults, fields_of

__all__ = [
    "MANIFEST_ENDINGS",
    "MAX_SEED",
    "STEPS",
    "AcceptedRow",
    "ManifestLimits",
    "OutputNames",
    "ParsedManifest",
    "Quality",
    "RejectedRow",
    "Row",
    "RowDefaults",
    "TakenNames",
    "check_apart",
    "check_template",
    "fields_of",
    "folder_of",
    "is_valid_id",
    "manifest_ending",
    "read_manifest",
    "read_parts",
    "to_jsonl",
    "why_no_name",
    "write_jsonl",
]
