"""One worker's life, from its start to its report: what it reported, and when its last event arrived."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from inpaint_ops.config import Settings
from inpaint_ops.device.health import DeviceHealth, device_health, health_warnings
from inpaint_ops.errors import WorkerProtocolError
from inpaint_ops.protocol import Bye, End, Event, Flush, Item, Job, Ready
from inpaint_ops.records import WorkerReport, WorkerSetup, now
from inpaint_ops.supervisor.conduct import Conduct
from inpaint_ops.supervisor.confinement import Identity
from inpaint_ops.supervisor.rows import BookedRow
from inpaint_ops.supervisor.worker_process import WorkerProcess


@dataclass(slots=True)
class WorkerSession:
    """A started worker, the `number`th of its shard's attempt."""

    number: int
    process: WorkerProcess
    ready: Ready | None = None
    may_paint: bool = False
    """It is ready, and the rows that other attempts have recorded by then are known."""
    bye: Bye | None = None
    phase: str = "starting a worker"
    painted: int = 0
    flushed: bool = False
    """It was asked to paint the rows that it has, and nothing has changed since."""
    device_lost: str = ""
    last_sign: float = field(default_factory=time.monotonic)
    is_distrusted: bool = False
    conduct: Conduct = field(default_factory=Conduct)
    _health: Future[DeviceHealth | None] | None = None

    @classmethod
    def start(
        cls,
        number: int,
        *,
        folder: Path,
        job: Job,
        on_event: Callable[[Event], None],
        on_exit: Callable[[int], None],
        command: Sequence[str] | None,
        pending: Callable[[], int],
        identity: Identity | None,
        settings: Settings,
    ) -> WorkerSession:
        """Start a worker in `folder`, which is made for it, and tell it its job."""
        folder.mkdir(mode=0o700)
        if identity is not None:
            identity.give(folder)
        process = WorkerProcess.start(
            cwd=folder,
            on_event=on_event,
            on_exit=on_exit,
            command=command,
            pending=pending,
            identity=identity,
            also_passed=settings.worker_env,
            warm_host=settings.warm_host,
        )
        process.send(job)
        return cls(number, process)

    @property
    def device(self) -> str:
        """What names its device."""
        return self.ready.device.uuid or self.ready.device.name if self.ready is not None else ""

    def heed(self, event: Event, rows: Mapping[int, BookedRow]) -> bool:
        """Whether an event may be acted on: a sign of life then. The worker that sent one out of turn, or of a row that
        is not among the `rows` in it, is killed, and nothing that it sends afterwards counts.
        """
        if self.is_distrusted:
            return False
        try:
            self.conduct.check(event, rows)
        except WorkerProtocolError as error:
            self.distrust(str(error))
            return False
        self.last_sign = time.monotonic()
        return True

    def distrust(self, why: str) -> None:
        """Kill a worker that broke the protocol; its exit is reported as any other's. `why` is one line."""
        self.is_distrusted = True
        self.process.distrust(why)

    def set_ready(self, event: Ready) -> None:
        """It is ready. Which process it is, where and since when is known here, whatever it says."""
        worker = event.worker.model_copy(
            update={"pid": self.process.pid, "host": socket.gethostname(), "started_at": self.process.started_at}
        )
        self.ready = event.model_copy(update={"worker": worker})
        self.phase = "painting"

    def give(self, item: Item) -> None:
        """Send it a row."""
        self.flushed = False
        self.process.send(item)

    def flush(self) -> None:
        """Have it paint what it holds, once: nothing further comes for now."""
        if not self.flushed:
            self.flushed = True
            self.process.send(Flush())

    def end(self) -> None:
        """Ask it to end; one that is still loading is killed."""
        if self.ready is None:
            self.process.kill()
        else:
            self.conduct.is_asked_to_end = True
            self.process.send(End())

    def silence(self, settings: Settings, *, has_rows: bool) -> float | None:
        """Seconds since its last sign of life, where that is too long; None while it is idle or in time."""
        if self.ready is not None and not has_rows:
            self.last_sign = time.monotonic()
            return None
        limit = settings.stall_timeout if self.ready else settings.start_timeout + settings.lease_timeout
        silent = time.monotonic() - self.last_sign
        return silent if silent > limit and not self.process.stalled else None

    def look_at_device(
        self, background: Callable[[Callable[[], DeviceHealth | None]], Future[DeviceHealth | None]]
    ) -> None:
        """Ask for the condition of its card, now that it has one; the answer is for `device_warnings`."""
        if self.ready is not None and self.ready.device.kind == "cuda":
            self._health = background(partial(device_health, self.ready.device.uuid))

    def device_warnings(self) -> list[str]:
        """What became of its card meanwhile; asks the driver, so it takes a moment."""
        if self.ready is None or self._health is None:
            return []
        before = self._health.result()
        lived = (now() - self.ready.worker.started_at).total_seconds()
        return health_warnings(before, device_health(self.ready.device.uuid), lived)

    def report(self, how: str, *, attempt: str, shard: str, warnings: Sequence[str]) -> WorkerReport | None:
        """The worker's report; None if it was never ready."""
        ready, bye = self.ready, self.bye
        if ready is None:
            return None
        setup = {name: getattr(ready, name) for name in WorkerSetup.model_fields}
        if bye is not None:
            setup |= {"ledger": bye.ledger, "cold_start": bye.cold_start}
        return WorkerReport(
            **setup,
            finished_at=now(),
            busy=bye.busy if bye else 0.0,
            painted=bye.painted if bye else self.painted,
            peak_memory=bye.peak_memory if bye else None,
            exit=how,
            started_by=self.process.process.started_by,
            not_forked=self.process.not_forked,
            attempt=attempt,
            shard=shard,
            warnings=tuple(warnings),
        )
