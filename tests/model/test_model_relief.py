"""A model that is offloaded for one row, on a card that is not there: where its weights are afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inpaint_ops.errors import DeviceOutOfMemoryError
from inpaint_ops.model.loading import LoadedModel
from inpaint_ops.model.random_weights import instantiate
from inpaint_ops.records import ModelIdentity
from inpaint_ops.tuning import Tuning

CARD = torch.device("cuda:0")


class Card:
    """What stands between a pipeline and the card that is not there: each move's target, and what it raises."""

    def __init__(self, pipe: Any) -> None:
        self.moves: list[str] = []
        self.raising: dict[str, Exception] = {}
        to = pipe.to

        def moved(target: Any, **more: Any) -> Any:
            kind = torch.device(target).type
            self.moves.append(kind)
            if error := self.raising.get(kind):
                raise error
            return to(target, **more) if kind == "cpu" else pipe

        pipe.to = moved


@pytest.fixture
def model() -> Iterator[LoadedModel]:
    pipe = instantiate("tiny-random")
    identity = ModelIdentity(name="tiny-random", random_weights=True)
    yield LoadedModel(pipe, identity, 64, Tuning(dtype="float32", batch_size=1), {}, CARD)


def offload(model: LoadedModel) -> tuple[str, str]:
    """What the ledger says of the offload, and why."""
    (entry,) = (entry for entry in model.ledger if entry.name == "offload")
    return entry.effective, entry.reason


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger asks a kernel of a tensor on the card."""
    monkeypatch.setattr("inpaint_ops.model.ledger.kernel_in_use", lambda *_: "")


def test_weights_come_back_after_a_relieved_row(model: LoadedModel) -> None:
    card = Card(model.pipe)
    block = model.relieve()
    assert block is not None
    with block:
        assert offload(model)[0] == "model"
        assert model.pipe.vae.use_tiling
    assert card.moves == ["cpu", "cuda"]
    assert offload(model)[0] == "none"
    assert not model.pipe.vae.use_tiling


def test_weights_that_do_not_fit_the_card_again_stay_offloaded_and_the_ledger_says_why(model: LoadedModel) -> None:
    card = Card(model.pipe)
    card.raising["cuda"] = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    block = model.relieve()
    assert block is not None
    with pytest.raises(torch.OutOfMemoryError, match="stay offloaded"), block:
        pass
    assert card.moves == ["cpu", "cuda", "cpu"], "what had come is taken back"
    effective, reason = offload(model)
    assert effective == "model"
    assert "did not fit the device again" in reason and "2.00 GiB" in reason
    assert not model.pipe.vae.use_tiling

    card.raising.clear()
    again = model.relieve()
    assert again is not None
    with again:
        pass
    assert offload(model)[0] == "none", "the next relieved row brings them back"


def test_weights_that_fit_neither_the_card_nor_the_host_are_said_to(model: LoadedModel) -> None:
    card = Card(model.pipe)
    block = model.relieve()
    assert block is not None
    with pytest.raises(DeviceOutOfMemoryError, match="neither the device nor the host"), block:
        card.raising["cuda"] = torch.OutOfMemoryError("CUDA out of memory")
        card.raising["cpu"] = RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_a_host_without_memory_leaves_the_weights_on_the_card(model: LoadedModel) -> None:
    card = Card(model.pipe)
    card.raising["cpu"] = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    block = model.relieve()
    assert block is not None
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"), block:
        pytest.fail("nothing is painted with weights in two places")
    assert card.moves == ["cpu", "cuda"]
    assert offload(model)[0] == "none"
