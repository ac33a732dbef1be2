"""The optimisation notes as data, and `choose(device, …) -> Choice`: a Tuning, with a reason for each of its fields.

Pure: no torch, no environment, no files. What a plan needs of the memory is in `tuning.peaks`.
"""

from inpaint_ops.tuning.choosing import Choice, check_choices, choose, leaner, memory_budget
from inpaint_ops.tuning.fields import (
    MAX_PROBE_BYTES,
    PRESETS,
    PROBES,
    AttentionProbe,
    Preset,
    Tuning,
    shown,
)
from inpaint_ops.tuning.peaks import Workload, allowance, count_peak, count_phases, estimate_peak

__all__ = [
    "MAX_PROBE_BYTES", "PRESETS", "PROBES", "AttentionProbe", "Choice", "Preset", "Tuning", "Workload", "allowance",
    "check_choices", "choose", "count_peak", "count_phases", "estimate_peak", "leaner", "memory_budget", "shown",
]  # fmt: skip
