"""Content Credentials (C2PA) of finished images: signed in a process of its own, which alone ever has the key.

That process is started by exec with no environment of ours. It gets the key's path by its standard input, refuses other
processes its memory, and has no network unless a timestamp authority is asked. The worker, which decodes foreign files,
and the supervisor, which has the store's keys, never read the signing key.
"""

from inpaint_ops.signing.reading import read_credentials
from inpaint_ops.signing.signer import Claim, Signed, Signing, signing_of

__all__ = ["Claim", "Signed", "Signing", "read_credentials", "signing_of"]
