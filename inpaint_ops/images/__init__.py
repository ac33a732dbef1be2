"""Decode, orient, mask, place on the working size, composite, encode: bytes and arrays in, values out.

    source = decode_source(image_bytes, max_pixels=...)
    mask = read_mask(mask_bytes, size=source.size, max_pixels=...).weights
    placement = place(source.size, mask, native=1024)
    rgb, working_mask = to_working(source, mask, placement)      # what the model gets
    pixels = composite(source, mask, placement, painted)         # painted: what it gives back
    data = encode(pixels, format="png", icc=source.icc)

The promise: in a lossless format `out[mask == 0] == in[mask == 0]`, bit for bit, at the source's own size. No file or
network I/O, no torch. What cannot be used is an ImageError or a MaskError, of one line.
"""

from inpaint_ops.images.as_source import options_like
from inpaint_ops.images.close_up import close_up
from inpaint_ops.images.compositing import Alpha, composite
from inpaint_ops.images.encoding import (
    LOSSLESS,
    MEDIA_TYPES,
    AvifOptions,
    Format,
    JpegOptions,
    check_output_size,
    check_profile,
    check_writable,
    encode,
    output_conversions,
    thumbnail,
)
from inpaint_ops.images.filling import fill_masked
from inpaint_ops.images.joining import Joined, JoinOptions, join
from inpaint_ops.images.lama import Lama
from inpaint_ops.images.lpips import Lpips
from inpaint_ops.images.mask_meaning import MaskChannel
from inpaint_ops.images.masks import Mask, decode_mask, read_mask
from inpaint_ops.images.measures import measure
from inpaint_ops.images.metadata import Metadata
from inpaint_ops.images.outcome import alpha_conversions, check_changed, mask_area, visible_change
from inpaint_ops.images.placing import Crop, Placement, place, to_working, working_size, working_sizes
from inpaint_ops.images.provenance import Making, marked, read_mark
from inpaint_ops.images.reading import Source, decode_source
from inpaint_ops.images.regions import Regions, find_regions, fits_the_canvas
from inpaint_ops.images.row_pair import PairReading
from inpaint_ops.images.side_products import (
    PREVIEW_BYTES,
    PREVIEW_SIZE,
    Piece,
    mask_file,
    patch_file,
    patch_layer,
    preview_file,
    side_product_file,
)
from inpaint_ops.images.thumbnails import THUMBNAIL_BYTES, THUMBNAIL_SIZES, thumbnail_name, thumbnails
from inpaint_ops.images.tiled_painting import MOST_TILES, TilePainting, Tiling, find_tiles

__all__ = [
    "LOSSLESS",
    "MEDIA_TYPES",
    "MOST_TILES",
    "PREVIEW_BYTES",
    "PREVIEW_SIZE",
    "THUMBNAIL_BYTES",
    "THUMBNAIL_SIZES",
    "Alpha",
    "AvifOptions",
    "Crop",
    "Format",
    "JoinOptions",
    "Joined",
    "JpegOptions",
    "Lama",
    "Lpips",
    "Making",
    "Mask",
    "MaskChannel",
    "Metadata",
    "PairReading",
    "Piece",
    "Placement",
    "Regions",
    "Source",
    "TilePainting",
    "Tiling",
    "alpha_conversions",
    "check_changed",
    "check_output_size",
    "check_profile",
    "check_writable",
    "close_up",
    "composite",
    "decode_mask",
    "decode_source",
    "encode",
    "fill_masked",
    "find_regions",
    "find_tiles",
    "fits_the_canvas",
    "join",
    "marked",
    "mask_area",
    "mask_file",
    "measure",
    "options_like",
    "output_conversions",
    "patch_file",
    "patch_layer",
    "place",
    "preview_file",
    "read_mark",
    "read_mask",
    "side_product_file",
    "thumbnail",
    "thumbnail_name",
    "thumbnails",
    "to_working",
    "visible_change",
    "working_size",
    "working_sizes",
]
