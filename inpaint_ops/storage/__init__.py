"""Object storage: get, put (if absent), list, stat, delete, presign; over S3, and over a folder.

`Storage` is the way in: it takes locations or URIs, refuses what lies outside the allowed prefixes, and picks
the store. `S3Store` and `FolderStore` are the two stores behind it, `ObjectStore` what both can do.
"""

from inpaint_ops.storage.folder import FolderStore
from inpaint_ops.storage.guard import Storage
from inpaint_ops.storage.interface import MAX_PRESIGN, MAX_SIGNED, ObjectInfo, ObjectStore, Unfinished
from inpaint_ops.storage.probe import probe_conditional_put, probe_etag
from inpaint_ops.storage.s3 import S3Store
from inpaint_ops.storage.s3_client import make_s3_client

__all__ = [
    "MAX_PRESIGN",
    "MAX_SIGNED",
    "FolderStore",
    "ObjectInfo",
    "ObjectStore",
    "S3Store",
    "Storage",
    "Unfinished",
    "make_s3_client",
    "probe_conditional_put",
    "probe_etag",
]
