"""An SQS server on this machine: moto's, in a process of its own, asked as any other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import httpx

from demo.ports import claim_port
from tests.support.waiting import wait_until

KEYS = {"AWS_ACCESS_KEY_ID": "queue", "AWS_SECRET_ACCESS_KEY": "queue-secret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Queue:
    """One queue, as its server's users see it."""

    url: str
    client: Any

    def tell(self, *objects: str, event: str = "ObjectCreated:Put") -> None:
        """One message of S3 about objects, each as `bucket/key`."""
        records = [
            {"eventName": event, "s3": {"bucket": {"name": name}, "object": {"key": key}}}
            for name, _, key in (one.partition("/") for one in objects)
        ]
        self.send(json.dumps({"Records": records}))

    def send(self, body: str) -> None:
        """One message of any text."""
        self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def another(self) -> Queue:
        """A new one of the same server."""
        return Queue(self.client.create_queue(QueueName=f"arrivals-{uuid4().hex}")["QueueUrl"], self.client)

    def left(self) -> int:
        """Messages that nobody has deleted."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)


@contextlib.contextmanager
def queue_server(log: Path) -> Iterator[Queue]:
    """A server with one queue; it ends with the block."""
    claim = claim_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(claim.port)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        place = f"http://127.0.0.1:{claim.port}"
        wait_until(lambda: process.poll() is not None or _answers(place))
        assert process.poll() is None, log.read_text()
        client = boto3.client(
            "sqs", endpoint_url=place, region_name="us-east-1", aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        yield Queue(client.create_queue(QueueName="arrivals")["QueueUrl"], client)
    finally:
        process.terminate()
        process.wait()
        claim.close()


def _answers(place: str) -> bool:
    try:
        return httpx.get(f"{place}/moto-api/data.json", timeout=10).is_success
    except httpx.HTTPError:
        return False
