"""One exception tree; permanent or transient is a property of the class.

A *permanent* error comes back however often the work is tried again: the row is recorded as failed, the task is not
retried. A *transient* one may pass (marked ~): it is retried, first here, then by the scheduler.

    InpaintOpsError
      ConfigError  ManifestError  RowError  RunConflictError  RunNotGoodError
      ImageError -> MaskError
      ModelError  PromptError  NonFiniteImageError
      StorageError -> ForbiddenLocationError  ObjectNotFoundError  ObjectExistsError  ObjectChangedError
                      AccessDeniedError  ObjectTooLargeError  ~StorageUnavailableError -> ~CredentialsExpiredError
      SigningError -> ~SigningUnavailableError
      ~ScratchFullError
      ~DeviceError -> ~DeviceBusyError  ~DeviceLostError  DeviceOutOfMemoryError
      ~WorkerError -> ~WorkerDiedError  ~WorkerStalledError  ~DrainedError  ~ShardTimeoutError  ~ShardIncompleteError

Each class has a `cure`: what a person does about rows that ended with it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

MAX_MESSAGE = 2000
"""Characters of an error's message, at most."""


def one_line(text: str) -> str:
    """`text` as a terminal, a log and a page can safely show it: one line of at most MAX_MESSAGE characters.

    What has no picture of its own (control characters, ends of lines, what turns the direction of writing, half a
    surrogate pair) is escaped as `repr` does it, so that no file can forge a line of a log (CWE-117).
    """
    shown = escaped(text[:MAX_MESSAGE])
    return shown if len(shown) <= MAX_MESSAGE and len(text) <= MAX_MESSAGE else shown[: MAX_MESSAGE - 1] + "…"


def escaped(text: str) -> str:
    """`text` on one line, however long, with nothing in it that has no picture of its own; see `one_line`."""
    return "".join(char if char.isprintable() else " " if char in "\n\r\t" else ascii(char)[1:-1] for char in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'tuning'?` where one of the known names is spelled much like `name`; else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class InpaintOpsError(Exception):
    """The base of every error that this package raises on purpose.

    The message is one line for the user, whatever went into it: what is wrong, where, and what to do about it.
    """

    permanent: ClassVar[bool] = True
    exit_code: ClassVar[int] = 1
    cure: ClassVar[str] = "Follow the message, then run failed.jsonl."
    """What a person does about rows that ended with it."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class ConfigError(InpaintOpsError):
    """A setting, an option or an environment variable is missing or unusable."""

    exit_code = 2


class UnsafePathError(ConfigError):
    """A local folder or file belongs to another user of this machine, or another user could change or replace it."""


class ManifestError(InpaintOpsError):
    """The manifest as a whole cannot be read: empty, not text, no header, too large."""

    exit_code = 2


class RowError(InpaintOpsError):
    """A row of a manifest cannot be worked on: a field is missing, unknown or out of range."""

    cure = "Correct the line in the manifest, then run the corrected lines as a manifest of their own."
    exit_code = 2


class RunConflictError(InpaintOpsError):
    """The run's name is taken by another manifest or by other parameters."""

    exit_code = 2


class RunNotGoodError(InpaintOpsError):
    """The run has finished, and more rows failed or were rejected than the threshold allows."""

    exit_code = 3


class ImageError(InpaintOpsError):
    """A source image or a mask cannot be used: unreadable, truncated, oversized, of a kind that is not supported."""

    cure = "Open the image: replace or re-export it, then run failed.jsonl."


class MaskError(ImageError):
    """The mask does not fit its image, or masks nothing."""

    cure = "Make the mask the size of its image, white where it should be painted, then run failed.jsonl."


class PreviewError(ImageError):
    """There is no small picture of a file: it cannot be decoded, or not within what a preview may take.

    `cpu` is the seconds of the processor that were spent on it. `is_of_file`: the decoder has said it of the file,
    and no limit was in the way.
    """

    def __init__(self, message: object = "", *, cpu: float = 0.0, is_of_file: bool = False) -> None:
        super().__init__(message)
        self.cpu = cpu
        self.is_of_file = is_of_file


class PreviewBusyError(InpaintOpsError):
    """A small picture is not made now: others wait already, or its run has had its share. Worth another try later.

    `retry_after` is in seconds.
    """

    permanent = False

    def __init__(self, message: object = "", *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelError(InpaintOpsError):
    """The model cannot be found or loaded, or is not an SDXL inpainting model."""

    cure = "Check the model with `inpaint-ops models`, then run failed.jsonl."
    exit_code = 2


class PromptError(InpaintOpsError):
    """A row's text cannot be encoded, or its job had not announced it and the text encoders are released already."""


class StorageError(InpaintOpsError):
    """The base of what the object store answers."""

    cure = "Check the store, then run failed.jsonl."
    exit_code = 2


class ForbiddenLocationError(StorageError):
    """A key or URI lies outside the prefixes that may be read or written."""

    cure = "Move the object under an allowed prefix, or add its prefix to INPAINT_ALLOWED_PREFIXES."


class ObjectNotFoundError(StorageError):
    """No object has this key."""

    cure = "Upload the missing object or correct its key, then run failed.jsonl."


class ObjectExistsError(StorageError):
    """A put-if-absent found the key taken."""


class ObjectChangedError(StorageError):
    """A conditional request found another version of the object than the one that it was for, or none."""


class AccessDeniedError(StorageError):
    """The store knows us and refuses, or does not know our credentials."""

    cure = "Give the storage credentials the right to read and write here, then run failed.jsonl."


class ObjectTooLargeError(StorageError):
    """The object is larger than the limit that the caller set."""

    cure = "Shrink the file, or raise the limit that the message names, then run failed.jsonl."


class DamagedObjectError(StorageError):
    """An object of a run is not what belongs there: cut off, damaged, of another run, or written by somebody else."""


class StorageUnavailableError(StorageError):
    """The store did not answer, or broke off, on every try; or it will not have this machine's clock."""

    cure = "The store did not answer: run failed.jsonl when it does."
    permanent = False


class CredentialsExpiredError(StorageUnavailableError):
    """The session's token has expired: new credentials may be there already, for a client that is made anew."""


class SigningError(InpaintOpsError):
    """An image could not be given its Content Credentials."""

    cure = "Read the message: it names what cannot be signed; then run failed.jsonl."


class SigningUnavailableError(SigningError):
    """A signature could not be had now: the timestamp authority did not answer."""

    permanent = False
    cure = "Look at the timestamp authority (INPAINT_C2PA_TIMESTAMPS), or leave it out; then run failed.jsonl."


class ScratchFullError(InpaintOpsError):
    """The local scratch folder's disk has no room left."""

    permanent = False


class DeviceError(InpaintOpsError):
    """The base of what a device does to us."""

    cure = "Check the machine with `inpaint-ops doctor`, then run failed.jsonl."
    permanent = False


class DeviceBusyError(DeviceError):
    """Every device of this machine is leased to another worker."""


class DeviceLostError(DeviceError):
    """The device failed under the worker: nothing that this process asks of it will work any more."""


class DeviceOutOfMemoryError(DeviceError):
    """A batch did not fit the device's memory, at any size that may be tried."""

    cure = "Use a smaller batch, the low-memory tuning or a larger card, then run failed.jsonl."
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

    cure = "Look at the worker's log, then run failed.jsonl."
    permanent = False


class WorkerDiedError(WorkerError):
    """The worker process ended before its work did."""

    cure = "Look at the row's image and at the worker's log: the row may kill it. Then run failed.jsonl."


class WorkerStalledError(WorkerError):
    """The worker process was alive and made no progress for too long; it has been killed."""

    cure = "Look at its log; raise INPAINT_STALL_TIMEOUT if it was slow; then run failed.jsonl."


class WorkerProtocolError(WorkerError):
    """The worker sent, or left as its output, what it was not asked for: it is no longer trusted and was killed."""


class DrainedError(WorkerError):
    """The process was asked to stop (SIGTERM): rows in the worker are finished or left to another attempt."""

    exit_code = 143


class ShardTimeoutError(WorkerError):
    """A try of a shard has taken as long as it may. Transient: another try does only what is left, so it gets on."""

    cure = "Raise INPAINT_SHARD_TIMEOUT or make shards smaller, then run it again: it does what is left."


class ShardIncompleteError(WorkerError):
    """Rows of a shard have no record yet, for a transient reason: another try does only those."""


def error_class(name: str) -> type[InpaintOpsError] | None:
    """The class of this name, as a record or another process gives it; None where it is none of ours."""
    found: list[type[InpaintOpsError]] = [InpaintOpsError]
    for kind in found:
        if kind.__name__ == name:
            return kind
        found.extend(kind.__subclasses__())
    return None
