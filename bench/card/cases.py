"""What is run on a card: each case is one `inpaint-ops run`, some with something that happens meanwhile. Pure data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from inpaint_ops.records import Model

Meanwhile = Literal["nothing", "memory is taken", "the worker is killed", "a second command"]

BUSY_WAIT = {"INPAINT_CUDA_WAIT": "spin"}


class Case(Model):
    """One run of the command."""

    name: str
    asks: str = Field(description="The question that it answers.")
    rows: int
    megapixels: float = Field(default=1.0, description="Of each source; the model paints at its own size.")
    steps: int = 20
    arguments: tuple[str, ...] = Field(default=(), description="Further arguments of `inpaint-ops run`.")
    environment: dict[str, str] = Field(default_factory=dict)
    cores: int | None = Field(default=None, description="Processors that the command may use; None: all.")
    start: Literal["exec", "fork"] = Field(default="exec", description="fork: its workers are the warm host's.")
    clip: bool = Field(default=False, description="Score the images by a CLIP model of ViT-L/14's size.")
    meanwhile: Meanwhile = "nothing"
    seconds: float = Field(description="What it is expected to take on an H200; those that do not fit are dropped.")


CASES = (
    Case(name="whole", asks="the command as it is", rows=32, seconds=75),
    Case(name="warm", asks="the same from the warm host", rows=32, start="fork", seconds=55),
    Case(name="profile", asks="are kernels in lanes by stream", rows=16, start="fork",
         arguments=("--profile",), seconds=50),
    Case(name="memory", asks="memory that runs out below what was planned", rows=16, start="fork",
         meanwhile="memory is taken", seconds=60),
    Case(name="killed", asks="a worker killed while it paints: memory freed, every row done", rows=24, start="fork",
         meanwhile="the worker is killed", seconds=70),
    Case(name="two", asks="two commands, one card: one waits for the other's lease", rows=8, start="fork",
         meanwhile="a second command", seconds=45),
    Case(name="clip", asks="what scores by CLIP add", rows=32, start="fork", clip=True, seconds=60),
    Case(name="two cores, sleep", asks="batch 1 on two cores, asleep while it waits", rows=12, cores=2,
         arguments=("--batch-size", "1"), seconds=50),
    Case(name="two cores, spin", asks="the same, asking without a pause", rows=12, cores=2,
         arguments=("--batch-size", "1"), environment=BUSY_WAIT, seconds=50),
    Case(name="12 MP, two cores", asks="do two cores feed a card at 12 megapixels", rows=24, megapixels=12, cores=2,
         seconds=65),
    Case(name="12 MP, two cores, spin", asks="the same, asking without a pause", rows=24, megapixels=12, cores=2,
         environment=BUSY_WAIT, seconds=65),
    *(
        Case(name=f"12 MP, {cores} cores, 4 steps", asks="the same where painting takes a third of the time", rows=32,
             megapixels=12, steps=4, cores=cores, seconds=45)
        for cores in (2, 4, 16)
    ),
    *(
        Case(name=f"24 MP, {cores} cores, 4 steps", asks="and at 24 megapixels", rows=24, megapixels=24, steps=4,
             cores=cores, seconds=55)
        for cores in (2, 16)
    ),
)  # fmt: skip
