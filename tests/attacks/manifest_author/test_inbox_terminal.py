"""What a name can do to the log or the terminal that shows it: nothing but be shown."""

from __future__ import annotations

import ast
import json
import logging
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import inpaint_ops
from inpaint_ops.cli import main
from inpaint_ops.config import Settings
from inpaint_ops.housekeeping import in_the_store, retention, sweep
from inpaint_ops.inbox import claim_all
from inpaint_ops.records import now
from inpaint_ops.runs import Workspace

HOSTILE = "a\n2026-11-25 00:00:00 CRITICAL forged \x1b[2J\x9b2J\u202egnp\u2066\u2028\x85\r\x07b"
PACKAGE = Path(inpaint_ops.__file__).parent


def plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n")) and "\nforged" not in text


def test_a_message_of_ours_is_one_plain_line_in_any_handler(caplog: pytest.LogCaptureFixture) -> None:
    """A name that forges a line, clears the screen, or turns the direction of writing."""
    logging.getLogger("inpaint_ops.some.module").warning("%s is odd, %d times", HOSTILE, 3)
    logging.getLogger("inpaint_ops.some.module").warning(HOSTILE)
    for message in caplog.messages:
        assert message.isprintable() and "CRITICAL forged" in message and r"\x1b[2J" in message
    assert caplog.messages[0].endswith("is odd, 3 times")


def test_a_copied_record_stays_as_it_is() -> None:
    """structlog, which formats Airflow's logs, and queues copy records with `makeLogRecord`, which names no logger."""
    copied = logging.makeLogRecord({"name": "inpaint_ops.x", "msg": "a %s", "args": ("b",)})
    assert copied.getMessage() == "a b"


def test_other_loggers_are_left_alone_and_a_bad_format_is_the_handlers(capsys: pytest.CaptureFixture[str]) -> None:
    """The factory of records is the whole process's, so it must not get into anybody's way."""
    make = logging.getLogRecordFactory()
    record = make("inpaint_opsy", logging.INFO, "x.py", 1, "a\nb %s", ("c",), None)
    assert (record.getMessage(), record.args) == ("a\nb c", ("c",))
    record = make("inpaint_ops.x", logging.INFO, "x.py", 1, "%d", ("c",), None)
    with pytest.raises(TypeError):
        record.getMessage()


def test_what_housekeeping_says_of_names_is_plain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names of uploads that nobody ended, and of an inbox's folder, come from outside too."""
    workspace = Workspace.open(Settings(), store=str(tmp_path))
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / f"{HOSTILE.replace('/', '_')}.jsonl").write_text("x")
    (tmp_path / "inbox" / "good.jsonl").write_text("x")
    claim_all(workspace, "me")
    (tmp_path / HOSTILE).mkdir()
    workspace.storage.unfinished(str(tmp_path))
    from inpaint_ops.storage.files import TEMP_PREFIX

    (tmp_path / HOSTILE / f"{TEMP_PREFIX}x").write_text("half")
    with caplog.at_level("INFO"):
        sweep(in_the_store(workspace, retention(), now() + timedelta(days=366)))
    assert len([message for message in caplog.messages if "would remove upload" in message]) == 1
    assert all(message.isprintable() for message in caplog.messages)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_command_line_shows_names_and_obeys_none(tmp_path: Path) -> None:
    """Files with hostile names, paired to a manifest that goes to the terminal."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{kind}{HOSTILE}.png").write_bytes(b"x")
        (tmp_path / kind / "both\x9b2J\u202e.png").write_bytes(b"x")
    code, output = run("manifest", str(tmp_path / "images"), str(tmp_path / "masks"), "--prompt", "\x9b2J")
    assert code == 3 and plain(output), ascii(output)
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [row["prompt"] for row in rows] == ["\x9b2J"] and "\x9b2J\u202e" in rows[0]["image"]
    assert len(output.splitlines()) == 4, "a row, an image alone, a mask alone, the count"


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_manifests_rows_are_told_in_plain_lines(tmp_path: Path, as_json: list[str]) -> None:
    """Fields, keys and ids that hold escapes, in every command that tells of them."""
    rows = [
        {"image": HOSTILE, "mask": "m.png", "prompt": "x"},
        {"image": "i.png", "mask": "m.png", "prompt": "x", "id": HOSTILE},
        {"image": "i.png", "mask": "m.png", "prompt": "x", HOSTILE: 1},
        {"image": "i\u202e.png", "mask": "m\x9b.png", "prompt": HOSTILE},
    ]
    manifest = tmp_path / "night.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in (["validate", str(manifest), "--check-objects"], ["plan", str(manifest)]):
        _, output = run(*command, *as_json)
        assert plain(output), ascii(output)
        assert not as_json or output.isascii()
    code, output = run("validate", str(tmp_path / f"{HOSTILE}.jsonl"), *as_json)
    assert code == 2 and plain(output) and len(output.splitlines()) == 1 + len(as_json)


def test_nothing_is_printed_past_the_one_place_for_it() -> None:
    """A later command that prints a name as it is."""
    loose = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"):
                loose.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {called}")  # type: ignore[attr-defined]
    # all but the first are processes of their own: what they print is bounded, escaped and logged by their parents
    allowed = (
        "cli/terminal.py:", "machine/parquet_columns.py:", "signing/process.py:", "worker/launch.py:",
        "worker/fork_request.py:", "worker/warm_host.py:",
    )  # fmt: skip
    assert [line for line in loose if not line.startswith(allowed)] == []
