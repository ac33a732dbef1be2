"""One exception tree; permanent or transient is a property of the class.

A *permanent* error comes back however often the work is tried again: the row is recorded as failed, the task is not
retried. A *transient* one may pass: it is retried, first here, then by the scheduler.
"""

from __future__ import annotations

from typing import ClassVar

MAX_MESSAGE = 2000
"""Characters of an error's message, at most."""


def one_line(text: str) -> str:
    """`text` as a terminal, a log and a page can safely show it: one line of at most MAX_MESSAGE characters.

    What has no picture of its own (control characters, ends of lines, what turns the direction of writing, half a
    surrogate pair) is escaped as `repr` does it, so that no file can forge a line of a log (CWE-117).
    """
    shown = "".join(
        char if char.isprintable() else " " if char in "\n\r\t" else ascii(char)[1:-1] for char in text[:MAX_MESSAGE]
    )
    return shown if len(shown) <= MAX_MESSAGE and len(text) <= MAX_MESSAGE else shown[: MAX_MESSAGE - 1] + "…"


class InpaintOpsError(Exception):
    """The base of every error that this package raises on purpose.

    The message is one line for the user, whatever went into it: what is wrong, where, and what to do about it.
    """

    permanent: ClassVar[bool] = True
    exit_code: ClassVar[int] = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class ConfigError(InpaintOpsError):
    """A setting, an option or an environment variable is missing or unusable."""

    exit_code = 2


class ManifestError(InpaintOpsError):
    """The manifest as a whole cannot be read: empty, not text, no header, too large."""

    exit_code = 2


class RunConflictError(InpaintOpsError):
    """The run's name is taken by another manifest or by other parameters."""

    exit_code = 2


class RunNotGoodError(InpaintOpsError):
    """The run has finished, and more rows failed or were rejected than the threshold allows."""

    exit_code = 3


class ImageError(InpaintOpsError):
    """A source image or a mask cannot be used: unreadable, truncated, oversized, of a kind that is not supported."""


class MaskError(ImageError):
    """The mask does not fit its image, or masks nothing."""


class ModelError(InpaintOpsError):
    """The model cannot be found or loaded, or is not an SDXL inpainting model."""

    exit_code = 2


class PromptError(InpaintOpsError):
    """A row's text cannot be encoded, or its job had not announced it and the text encoders are released already."""


class StorageError(InpaintOpsError):
    """The base of what the object store answers."""


class ForbiddenLocationError(StorageError):
    """A key or URI lies outside the prefixes that may be read or written."""

    exit_code = 2


class ObjectNotFoundError(StorageError):
    """No object has this key."""

    exit_code = 2


class ObjectExistsError(StorageError):
    """A put-if-absent found the key taken."""


class AccessDeniedError(StorageError):
    """The store knows us and refuses, or does not know our credentials."""

    exit_code = 2


class ObjectTooLargeError(StorageError):
    """The object is larger than the limit that the caller set."""


class StorageUnavailableError(StorageError):
    """The store did not answer, or broke off, on every try; or it will not have this machine's clock."""

    permanent = False


class CredentialsExpiredError(StorageUnavailableError):
    """The session's token has expired: new credentials may be there already, for a client that is made anew."""


class ScratchFullError(InpaintOpsError):
    """The local scratch folder's disk has no room left."""

    permanent = False


class DeviceError(InpaintOpsError):
    """The base of what a device does to us."""

    permanent = False


class DeviceBusyError(DeviceError):
    """Every device of this machine is leased to another worker."""


class DeviceLostError(DeviceError):
    """The device failed under the worker: nothing that this process asks of it will work any more."""


class DeviceOutOfMemoryError(DeviceError):
    """A batch did not fit the device's memory, at any size that may be tried."""

    permanent = True


class NonFiniteImageError(InpaintOpsError):
    """The model's output holds NaN or infinity: half precision overflowed, or the weights are broken."""


class FlatImageError(InpaintOpsError):
    """The model painted black, or one flat colour that nothing around it has: its output overflowed, or is broken."""


class UnchangedError(InpaintOpsError):
    """What was painted hardly differs from the source: the row would be done in name only.

    `change` is how much it differs, in 8-bit levels.
    """

    def __init__(self, message: object = "", *, change: float = 0.0) -> None:
        super().__init__(message)
        self.change = change


class WorkerError(InpaintOpsError):
    """The base of what happens to a worker process."""

    permanent = False


class WorkerDiedError(WorkerError):
    """The worker process ended before its work did."""


class WorkerStalledError(WorkerError):
    """The worker process was alive and made no progress for too long; it has been killed."""


class DrainedError(WorkerError):
    """The process was told to stop (SIGTERM): what was in the worker's hands is finished or handed back."""

    exit_code = 143


class ShardTimeoutError(WorkerError):
    """A try of a shard has taken as long as it may. Transient: another try does only what is left, so it gets on."""


class ShardIncompleteError(WorkerError):
    """Rows of a shard have no record yet, for a transient reason: another try does only those."""
