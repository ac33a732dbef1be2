"""Object storage: get, put (if absent), list, stat, delete, presign; over S3, and over a folder.

`Storage` is the way in: it takes locations or URIs, refuses what lies outside the allowed prefixes, and picks
the store. `s3.S3Store` and `FolderStore` are the two stores behind it, `ObjectStore` what both can do. Whoever uses a
folder alone imports nothing of S3.
"""

from inpaint_ops.storage.folder import FolderStore
from inpaint_ops.storage.guard import Storage
from inpaint_ops.storage.interface import MAX_PRESIGN, MAX_SIGNED, ObjectInfo, ObjectStore, Unfinished

__all__ = [
    "MAX_PRESIGN",
    "MAX_SIGNED",
    "FolderStore",
    "ObjectInfo",
    "ObjectStore",
    "Storage",
    "Unfinished",
]
