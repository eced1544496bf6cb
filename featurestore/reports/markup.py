"""Writing HTML and SVG elements with every value escaped.

``element`` escapes attributes and text; only ``Markup``, which it returns itself, is inserted as it is. So no name or
value of a user can become part of the structure of a page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from featurestore.core.cleaning import clean


class Markup(str):
    """Text that is already markup, and is not escaped again."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]

_EMPTY = frozenset({"meta", "br", "line", "rect", "circle"})


def escape(value: object) -> Markup:
    """Return a value as markup: unchanged if it is markup, else its escaped text.

    Control characters are replaced by the replacement character, and so are characters that change the direction of
    text, which would let a value change how the following text looks.

    Example:
        >>> escape("<b>")
        '&lt;b&gt;'
    """
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(clean(str(value)), quote=True))


def element(tag: str, *children: Child, **attributes: object) -> Markup:
    """Return an element.

    Args:
        tag: Its name, never from user input.
        children: Text, numbers, elements and iterables of these; ``None`` is skipped.
        attributes: Attributes; ``_`` stands for ``-`` and a trailing ``_`` is dropped (``class_``); attributes that are
            ``None`` are left out.

    Example:
        >>> element("td", "a < b", class_="name")
        '<td class="name">a &lt; b</td>'
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _EMPTY and not children:
        return Markup(f"<{tag}{written}>" if tag in {"meta", "br"} else f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{joined(children)}</{tag}>")


def joined(children: Iterable[Child]) -> Markup:
    """Return text, numbers, elements and iterables of these, concatenated."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str | int | float):
            parts.append(escape(child))
        else:
            parts.append(joined(child))
    return Markup("".join(parts))
