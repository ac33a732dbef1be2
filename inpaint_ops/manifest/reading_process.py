"""The process that reads lines of a manifest: `python -m inpaint_ops.manifest.reading_process` (see `sharing`)."""

from __future__ import annotations

from inpaint_ops.machine import process_pool
from inpaint_ops.manifest.sharing import ReadLines

if __name__ == "__main__":
    process_pool.serve(ReadLines.of)
