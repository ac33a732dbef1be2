"""Small pictures of foreign files, made where that can hurt nobody: in a limited process, with limits for each picture.

    with Helper() as helper:
        jpeg = helper.make(Job("picture", longest=256, max_pixels=...), [pieces]).data

`helper` is the side that asks; `host` is the process, `python -m inpaint_ops.previews.host`. It never decodes: for each
picture it forks a child, which opens nothing, starts nothing, and ends with its picture. So a picture costs some
milliseconds beyond its decoding, and one that breaks its decoder meets no other.
"""

from inpaint_ops.previews.helper import Helper, Preview
from inpaint_ops.previews.messages import Job, Limits, Pair, split_parts

__all__ = ["Helper", "Job", "Limits", "Pair", "Preview", "split_parts"]
