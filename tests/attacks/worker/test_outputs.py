"""A worker that an image has taken over hands over what it should not: only a row's own picture is taken from it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from inpaint_ops.errors import ImageError, WorkerProtocolError
from inpaint_ops.images import Format, decode_source, encode
from inpaint_ops.images.header import read_file_header
from inpaint_ops.supervisor.received import Expected, receive, source_size
from tests.attacks.worker.bench import SECRET, Attacked
from tests.attacks.worker.hostile import FILES, LIES, png
from tests.support.pictures import noise
from tests.support.written import EACH_FORMAT

REFUSED = {
    "missing": "it is not there",
    "symlink": "it is a symbolic link",
    "hard_link": "it is linked from elsewhere",
    "folder_that_is_a_link": "its folder was replaced",
    "link_to_another_row": "it is a symbolic link",
    "link_to_proc": "it is a symbolic link",
    "link_to_a_device": "it is a symbolic link",
    "fifo": "it is no regular file",
    "unix_socket": "it is no regular file",
    "directory": "it is no regular file",
    "empty": "it begins with b''",
    "page": "it begins with b'<html>",
    "other_format": "it is jpeg, and png was asked for",
    "signature_alone": "cut off",
    "other_size": "it is 3x3, and its source is 2x1",
    "pixels_beyond_count": "and its source is 2x1",
    "sparse": "1,099,511,627,776 bytes",
}


def test_every_kind_of_file_is_tried() -> None:
    assert REFUSED.keys() == FILES.keys()


@pytest.mark.parametrize("attack", REFUSED)
def test_nothing_but_the_rows_own_picture_is_taken(tmp_path: Path, attack: str) -> None:
    """The attack: something else lies, or leads elsewhere, where the row's output should be."""
    bench = Attacked(tmp_path)
    result = bench.attack(attack).run()
    assert (result.done, result.failed) == (2, 1)
    bench.assert_only_the_evil_row_failed(REFUSED[attack])


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_lies_about_its_picture_is_not_believed(tmp_path: Path, lie: str) -> None:
    """The attack: a digest, a size, a type or a path that is not the file's."""
    bench = Attacked(tmp_path)
    bench.attack(lie).run()
    bench.assert_only_the_evil_row_failed("the worker's output was refused: its ")


@pytest.mark.parametrize("attack", ["rename_race", "written_while_it_is_read"])
def test_what_is_recorded_is_what_is_stored_however_fast_the_file_changes(tmp_path: Path, attack: str) -> None:
    """The attack: the file is another one, or has another content, between the look at it and the upload."""
    bench = Attacked(tmp_path)
    bench.attack(attack).run()
    assert not [name for name, data in bench.stored().items() if SECRET in data]
    for record in bench.records().values():
        if record.output is not None:
            stored = bench.workspace.storage.get(record.output.uri)
            assert (hashlib.sha256(stored).hexdigest(), len(stored)) == (record.output.sha256, record.output.bytes)
    assert [bench.statuses()[row] for row in (0, 2)] == ["done", "done"]


def test_what_a_worker_did_to_other_rows_files_goes_with_it(tmp_path: Path) -> None:
    """The attack: the sources and masks of rows that wait are changed for the worker that comes next."""
    bench = Attacked(tmp_path, transfer_threads=1)  # one thread: the evil row is not the first one
    bench.attack("tampering").run()
    assert bench.statuses() == ["done", "failed", "done"]
    seen = (bench.loot / "seen").read_bytes()
    assert b"TAMPERED" not in seen
    assert seen.count(b"IEND") >= 4, "the image and the mask of two rows, once or again"


def expected(folder: Path, kind: Format = "png", **more: object) -> Expected:
    return Expected(folder, kind, **{"max_pixels": 100, "owner": os.geteuid(), "size": None, **more})  # type: ignore[arg-type]


def test_the_largest_honest_file_is_taken_and_one_byte_more_is_not(tmp_path: Path) -> None:
    """The attack: a file just above the limit."""
    folder = tmp_path / "row"
    folder.mkdir()
    output = folder / "output"
    limit = expected(folder).max_bytes
    output.write_bytes(png(2, 1, 1))
    os.truncate(output, limit)
    with receive(expected(folder)) as taken:
        assert taken.bytes == limit == len(taken.path.read_bytes())
    os.truncate(output, limit + 1)
    with pytest.raises(WorkerProtocolError, match="would be the most"), receive(expected(folder)):
        pass


def test_a_file_of_another_user_is_not_taken(tmp_path: Path) -> None:
    """The attack: a file that the worker could not have written, brought there by somebody else."""
    folder = tmp_path / "row"
    folder.mkdir()
    (folder / "output").write_bytes(png(2, 1, 1))
    with (
        pytest.raises(WorkerProtocolError, match="it belongs to the user"),
        receive(expected(folder, owner=os.geteuid() + 1)),
    ):
        pass


def test_the_copy_is_out_of_the_workers_reach(tmp_path: Path) -> None:
    """The attack: the file is changed after it was looked at."""
    folder = tmp_path / "row"
    folder.mkdir()
    (folder / "output").write_bytes(png(2, 1, 1))
    with receive(expected(folder)) as taken:
        (folder / "output").write_bytes(SECRET)
        assert taken.path.read_bytes() == png(2, 1, 1)
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["output", "row"], "it has no name"


@pytest.mark.parametrize("kind", EACH_FORMAT)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [np.uint8, np.uint16])
def test_every_picture_that_we_write_passes(tmp_path: Path, kind: Format, channels: int, bits: type) -> None:
    """No attack: what an honest worker encodes, of noise that cannot be packed, is taken."""
    pixels = noise(37, 53, channels, dtype=bits)
    data = encode(pixels, format=kind, icc=None)
    (tmp_path / "output").write_bytes(data)
    size = pixels.shape[1], pixels.shape[0]
    with receive(expected(tmp_path, kind, size=size, max_pixels=10**4)) as taken:
        assert (taken.width, taken.height, taken.sha256) == (*size, hashlib.sha256(data).hexdigest())
        assert decode_source(taken.path.read_bytes(), max_pixels=10**4).size == size


@pytest.mark.parametrize("cut", range(0, 64, 3))
@pytest.mark.parametrize("kind", EACH_FORMAT)
def test_a_header_that_is_cut_off_is_one_error(tmp_path: Path, kind: Format, cut: int) -> None:
    """The attack: a file that ends amid its header."""
    path = tmp_path / "output"
    path.write_bytes(encode(noise(37, 53), format=kind, icc=None)[:cut])
    with path.open("rb") as file:
        try:
            header = read_file_header(file)
        except ImageError:
            assert source_size(path) is None
        else:
            assert source_size(path) == (header.width, header.height)


def test_a_source_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """The attack: a row's source is replaced by a FIFO before its header is read."""
    os.mkfifo(tmp_path / "image")
    assert source_size(tmp_path / "image") is None
