"""Text from callers, cleaned of the characters that would control a terminal or a log.

Callers choose keys and values. An escape sequence in one of them could clear an operator's screen, set its title or
print a false verdict; a character that reverses the direction of writing could change how the text after it reads.
"""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
"""Shown in place of a removed character."""

_CONTROL = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_DIRECTION = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES = range(0xD800, 0xE000)
_CODES = (*_CONTROL, *_DIRECTION, *_SURROGATES)
_IN_A_LINE = dict.fromkeys(_CODES, REPLACEMENT) | {ord("\t"): "\t"}
_IN_TEXT = _IN_A_LINE | {ord("\n"): "\n"}
_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""Return text without characters that control a terminal; line breaks and tabs stay.

    Args:
        text: Any text.

    Returns:
        Text of the same length: the replacement character stands for control characters (C0, DEL, C1), line and
        paragraph separators, characters that change the direction of writing, and lone surrogates.

    Example:
        >>> clean("a\x1b[2J\u202eb\n")
        'a�[2J�b\n'
    """
    return text.translate(_IN_TEXT)


def clean_line(text: str) -> str:
    r"""Return cleaned text on one line: line breaks are replaced, too.

    Example:
        >>> clean_line("a\nverdict: pass")
        'a�verdict: pass'
    """
    return text.translate(_IN_A_LINE)


def clean_json(document: str) -> str:
    r"""Return an equal JSON document in which the characters that ``clean`` replaces are written as escapes.

    Args:
        document: JSON text; control characters below U+0020 are escaped in it already, as JSON requires.

    Example:
        >>> clean_json('{"key":"a\u202eb"}')
        '{"key":"a\\u202eb"}'
    """
    if document.isascii() and "\x7f" not in document:
        return document
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", document)
