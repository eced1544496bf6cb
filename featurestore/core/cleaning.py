"""Text from callers as a terminal or a log may show it: without characters that control either.

Keys and values are written by whoever may push or ask. An escape sequence in one of them could clear an operator's
screen, set its title or print a verdict of its own; a character that turns the direction of writing around could
rewrite what stands after it.
"""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
"""What is shown in place of a character that may not be shown."""

_CONTROL = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_WITHOUT_ENCODING = range(0xD800, 0xE000)
_CODES = (*_CONTROL, *_TURNING, *_WITHOUT_ENCODING)
_IN_A_LINE = dict.fromkeys(_CODES, REPLACEMENT) | {ord("\t"): "\t"}
_IN_TEXT = _IN_A_LINE | {ord("\n"): "\n"}
_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""Return text without characters that control a terminal; line breaks and tabs stay.

    Args:
        text: Any text.

    Returns:
        Text of the same length: control characters (C0, DEL, C1), line and paragraph separators, those that turn the
        direction of writing around, and lone surrogates are the replacement character.

    Example:
        >>> clean("a\x1b[2J\u202eb\n")
        'a�[2J�b\n'
    """
    return text.translate(_IN_TEXT)


def clean_line(text: str) -> str:
    r"""Return the same as ``clean`` in one line: a line break is the replacement character, too.

    Example:
        >>> clean_line("a\nverdict: pass")
        'a�verdict: pass'
    """
    return text.translate(_IN_A_LINE)


def clean_json(document: str) -> str:
    r"""Return a JSON document that says the same, with what ``clean`` would replace written as escapes.

    Args:
        document: JSON text, in which control characters below U+0020 are escaped already, as JSON demands.

    Example:
        >>> clean_json('{"key":"a\u202eb"}')
        '{"key":"a\\u202eb"}'
    """
    if document.isascii() and "\x7f" not in document:
        return document
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
