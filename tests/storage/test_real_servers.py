"""The page on storage tells the truth of the server that is here; `make stores` asks the others."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.stores.__main__ import column, table
from bench.stores.probes import PROBES
from bench.stores.servers import servers

RACE = "put-if-absent (`If-None-Match: *`), also of eight at once"
PAGE = Path(__file__).resolve().parents[2] / "docs/storage.md"


@pytest.mark.slow
def test_the_column_of_seaweedfs_is_what_it_answers(tmp_path: Path) -> None:
    with contextmanager(servers(tmp_path, tmp_path)["seaweedfs"])() as server:
        answers = column(server, tmp_path, with_run=False)
        if "racing" in answers[RACE]:  # as one of some hundreds is there: docs/storage.md
            answers[RACE] = PROBES[RACE](server)
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    names = next(line for line in lines if "SeaweedFS" in line).split(" | ")
    assert server.name in names, "the version on the page is not the one that is installed"
    at = names.index(server.name)
    page = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[at] for line in lines}
    assert answers == {name: page[name] for name in PROBES}
    assert len(list(table({server.name: answers}))) == len(PROBES) + 2
