"""Each fault of the matrix once, at a moment of its own; `make faults` is the long form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.model.random_weights import ensure
from tests.faults.catalogue import FAULTS
from tests.faults.trial import Fault, fault_store, run_trial

SEED = 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    with fault_store(tmp_path_factory.mktemp("fault-store")) as server:
        yield server


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fault-cache")
    ensure("tiny-random", folder)
    return folder


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_every_promise_holds_after(
    fault: Fault, store: ObjectStoreServer, cache: Path, tmp_path: Path, say: Callable[[str], None]
) -> None:
    if lacking := fault.lacking():
        pytest.skip(lacking)
    outcome = run_trial(fault, SEED, store, tmp_path / "trial", cache)
    say(str(outcome))
    assert outcome.recovered, "\n".join([str(outcome), (tmp_path / "trial" / "output.log").read_text()])
