"""Before a run: what a person asks for, what is known of it before a device is used, and options kept by name.

`asking` says what a request is, `preflight` looks at it part by part, `presets` keeps sets of options in the store.
"""

from inpaint_ops.submitting.asking import Request, names_of_runs, parse_request, write_manifest
from inpaint_ops.submitting.preflight import Finding, look_at
from inpaint_ops.submitting.presets import Preset, preset_names, read_preset, save_preset

__all__ = [
    "Finding",
    "Preset",
    "Request",
    "look_at",
    "names_of_runs",
    "parse_request",
    "preset_names",
    "read_preset",
    "save_preset",
    "write_manifest",
]
