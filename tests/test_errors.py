"""An error's message is one line, whatever went into it."""

from __future__ import annotations

import pickle
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.errors import MAX_MESSAGE, ConfigError, InpaintOpsError, MaskError
from inpaint_ops.records import ErrorInfo

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.text("\x1b\u2028\u202e\x85\n\ud800a ", min_size=1)


def is_plain(text: str) -> bool:
    return len(text) <= MAX_MESSAGE and not any(
        unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text
    )


@given(ANY_TEXT)
def test_no_message_can_forge_a_line_or_steer_a_terminal(text: str) -> None:
    error = MaskError(text)
    assert is_plain(str(error))
    foreign = ErrorInfo.of(ValueError(text), "decode")
    assert foreign.message and is_plain(foreign.message)
    assert ErrorInfo.model_validate_json(foreign.model_dump_json()) == foreign


def test_what_can_be_read_stays_as_it_was() -> None:
    text = "row 3: image: 'Täße 杯 🙂/a  b.png' is not there: upload it"
    assert str(ConfigError(text)) == text
    assert str(InpaintOpsError("a\nb\tc\x1b[31m\u202e\ud800")) == r"a b c\x1b[31m\u202e\ud800"


def test_a_long_message_is_cut_and_says_so() -> None:
    assert str(ConfigError("x" * MAX_MESSAGE)) == "x" * MAX_MESSAGE
    cut = str(ConfigError("x" * 10 * MAX_MESSAGE))
    assert len(cut) == MAX_MESSAGE and cut.endswith("x…")
    assert len(str(ConfigError("\0" * MAX_MESSAGE))) == MAX_MESSAGE


def test_errors_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(MaskError("the mask\nmasks nothing")))
    assert isinstance(error, MaskError) and str(error) == "the mask masks nothing"
