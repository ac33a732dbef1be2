"""Bulk SDXL inpainting: a manifest goes in; every row comes out exactly once, as an image or as a reason."""

from inpaint_ops import logs

__version__ = "0.1.0"

logs.install()
