"""A StatsD server that keeps what it hears."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Sample:
    """One line: a metric's name, its labels, its value, and c (counter), ms (timer) or g (gauge)."""

    name: str
    labels: dict[str, str]
    value: float
    kind: str


@dataclass
class Heard:
    """Samples, and what they add up to."""

    samples: list[Sample] = field(default_factory=list)

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's values where the labels are these."""
        return sum(one.value for one in self._of(name) if one.labels.items() >= labels.items())

    def tags(self, name: str, label: str) -> set[str]:
        """A label's values."""
        return {one.labels.get(label, "") for one in self._of(name)}

    def names(self) -> set[str]:
        """All metrics that were heard."""
        return {one.name for one in self.samples}

    def _of(self, name: str) -> list[Sample]:
        return [one for one in list(self.samples) if one.name == name]


class StatsdListener(Heard):
    """Listens on a free loopback port, in the background."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._listen, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What has Airflow send its metrics here, labels in the way that the compose file chooses."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._socket.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }

    def _listen(self) -> None:
        while data := self._socket.recv(65536):
            for line in data.decode().splitlines():
                head, _, rest = line.rpartition(":")
                name, *labels = head.split(",")
                value, kind, *_ = rest.split("|")
                pairs = dict(label.split("=", 1) for label in labels)
                self.samples.append(Sample(name, pairs, float(value), kind))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())  # an empty datagram ends the listening
        self._thread.join(5)
        self._socket.close()
