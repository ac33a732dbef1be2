"""Where every object of a store lives: StoreLayout for the store, RunLayout for one run in it."""

from inpaint_ops.layout.names import (
    MAX_RETRIES,
    REJECTED,
    SHARD_NAME,
    SIDE_PRODUCT_FORMATS,
    check_run_name,
    record_place,
    retry_of,
    retry_shard_name,
    run_name_from,
    shard_name,
    side_product_name,
    variant_name,
)
from inpaint_ops.layout.prefixes import PART, NamePrefixes, cover, without_longer
from inpaint_ops.layout.run import PROFILE_SUFFIX, REDO, RunLayout
from inpaint_ops.layout.store import CLAIM_ENDING, TRIGGERED_ENDING, StoreLayout, gallery_end, gallery_name

__all__ = [
    "CLAIM_ENDING",
    "MAX_RETRIES",
    "PART",
    "PROFILE_SUFFIX",
    "REDO",
    "REJECTED",
    "SHARD_NAME",
    "SIDE_PRODUCT_FORMATS",
    "TRIGGERED_ENDING",
    "NamePrefixes",
    "RunLayout",
    "StoreLayout",
    "check_run_name",
    "cover",
    "gallery_end",
    "gallery_name",
    "record_place",
    "retry_of",
    "retry_shard_name",
    "run_name_from",
    "shard_name",
    "side_product_name",
    "variant_name",
    "without_longer",
]
