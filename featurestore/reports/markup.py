"""Writing HTML and SVG: elements from values, every one escaped.

There is one way to text: ``element`` escapes attributes and text, and only what it returned itself is taken as markup.
So no name or value of a user can become part of a page's structure.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from featurestore.core.cleaning import clean


class Markup(str):
    """Text that is markup already; everything else is escaped."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]

_EMPTY = frozenset({"meta", "br", "line", "rect", "circle"})


def escape(value: object) -> Markup:
    """Return a value as markup: unchanged if it is markup, else its text with everything special escaped.

    Control characters, which have no place in a page, are shown as the replacement character; so are those that turn
    the direction of text around, which would let a value rewrite what stands after it.

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
        tag: Its name, from this program.
        children: Text, numbers, elements and iterables of these; ``None`` is nothing.
        attributes: Attributes; ``_`` stands for ``-`` and a trailing one is dropped (``class_``); ``None`` leaves one
            out.

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
    """Return text, numbers, elements and iterables of these one after the other."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str | int | float):
            parts.append(escape(child))
        else:
            parts.append(joined(child))
    return Markup("".join(parts))
