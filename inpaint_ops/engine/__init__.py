"""Paint a batch: prompts, seeds, denoise, decode, timings, out-of-memory back-off.

The engine takes rows that are already on their working size and gives back pixels. It knows no files and no processes.
Every row that goes in comes out exactly once, as an image or as the error that kept it from being one.
"""

from inpaint_ops.engine.batching import Batcher, BatchKey, PaintItem, PaintResult
from inpaint_ops.engine.listener import Listener, LoggingListener
from inpaint_ops.engine.measuring import PaintedBatch
from inpaint_ops.engine.model import PaintingModel
from inpaint_ops.engine.painting import Engine
from inpaint_ops.engine.profiler import start_profiler

__all__ = [
    "BatchKey", "Batcher", "Engine", "Listener", "LoggingListener", "PaintItem", "PaintResult", "PaintedBatch",
    "PaintingModel", "start_profiler",
]  # fmt: skip
