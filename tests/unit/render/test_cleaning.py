"""What a terminal or a log is given: no character of a caller controls either."""

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.cli import _CleanFormatter
from featurestore.cli.common import echo, echo_json, print_wide, show
from featurestore.core.cleaning import clean, clean_json, clean_line
from featurestore.server.logs import JsonLines

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b5n\x7f\u202e\u2066\u200f\u061c\u2028\r\b\x85\ud800"
HARMFUL = [chr(code) for code in (*range(9), *range(0xB, 0x20), *range(0x7F, 0xA0))] + list(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def is_harmless(text: str) -> bool:
    return not any(one in text for one in HARMFUL) and text.encode() is not None


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_cleaned_text_has_no_character_that_controls_a_terminal(text):
    assert is_harmless(clean(text)) and is_harmless(clean_line(text))
    assert len(clean(text)) == len(text) and "\n" not in clean_line(text)


@pytest.mark.parametrize("text", ["käse 30 °C → 東京", "a\tb\nc", ""])
def test_other_text_is_left_as_it_is(text):
    assert clean(text) == text


@given(st.text())
def test_cleaned_json_says_the_same_and_has_no_such_character(text):
    document = clean_json(json.dumps({"key": text}, ensure_ascii=False))
    assert is_harmless(document)
    assert json.loads(document) == {"key": text}


def test_everything_the_command_line_prints_is_cleaned(capsys):
    echo(HOSTILE)
    echo(HOSTILE, err=True)
    show(["column", HOSTILE], [["value", HOSTILE]])
    print_wide(HOSTILE)
    echo_json(json.dumps({"key": HOSTILE.replace("\ud800", "")}, ensure_ascii=False))
    shown = capsys.readouterr()
    assert "title" in shown.out and "title" in shown.err
    assert is_harmless(shown.out) and is_harmless(shown.err)


def test_log_lines_are_cleaned():
    record = logging.LogRecord("featurestore", logging.WARNING, "", 0, "key %s", (HOSTILE,), None)
    assert is_harmless(_CleanFormatter().format(record))
    line = JsonLines().format(record)
    assert is_harmless(line) and json.loads(line)["message"] == f"key {HOSTILE}"


def test_errors_of_the_command_line_are_cleaned(tmp_path):
    command = [sys.executable, "-m", "featurestore.cli", "-c", str(tmp_path / "a\x1b[2J.toml"), "status"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "[config-missing]" in done.stderr and is_harmless(done.stderr)
