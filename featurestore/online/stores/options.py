"""URLs of online stores: the options in their query, and what is told when they are wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from featurestore.core.errors import ConfigError, InstantError, listing
from featurestore.core.temporal import duration_us
from featurestore.online.stores.errors import WHERE

Reader = Callable[[str], Any]


@dataclass(frozen=True)
class StoreUrl:
    """A URL taken apart.

    Attributes:
        url: The URL without the options that are ours.
        shown: The URL without user, password and query, for messages.
        options: Our options that were given, read.
    """

    url: SplitResult
    shown: str
    options: Mapping[str, Any]


def read_url(url: str, *, own: Mapping[str, Reader], passed: frozenset[str] | None) -> StoreUrl:
    """Take the URL of a store apart.

    Args:
        url: The URL.
        own: Our options with what reads them.
        passed: Names of options that are the client's; ``None`` means all others.

    Raises:
        ConfigError: The URL is unreadable, an option is unknown, given twice, or its value is wrong.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _unreadable() from None
    if parts.netloc.count("@") > 1 or "@" in parts.path + parts.fragment or any("@" in name for name, _ in given):
        raise _unreadable()
    shown = f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    options: dict[str, Any] = {}
    rest = []
    for name, text in given:
        if name in own:
            options[name] = _option(name, text, own[name], shown)
        elif passed is None or name in passed:
            rest.append((name, text))
        else:
            hint = listing("Options", {*own, *(passed or ())}, wrong=name)
            raise ConfigError(f"'{shown}' has no option '{name}'", where=WHERE, hint=hint, code="store-url")
    if len({name for name, _ in given}) != len(given):
        raise ConfigError(f"an option of '{shown}' is given twice", where=WHERE, code="store-url")
    return StoreUrl(parts._replace(query=urlencode(rest)), shown, options)


def _unreadable() -> ConfigError:
    """Return the error for a URL that cannot be taken apart; it says nothing of it, for what is what is not known."""
    hint = (
        "Percent-encode what is special in user, password and options: '@' is %40, '/' %2F, ':' %3A, '?' %3F, '#' %23."
    )
    return ConfigError("its URL cannot be read", where=WHERE, hint=hint, code="store-url")


def _option(name: str, text: str, read: Reader, shown: str) -> Any:
    try:
        return read(text)
    except (ValueError, InstantError) as error:
        problem = error.problem if isinstance(error, InstantError) else str(error)
        raise ConfigError(f"option '{name}' of '{shown}': {problem}", where=WHERE, code="store-url") from None


def seconds(text: str) -> float:
    """Read a duration above zero, in seconds.

    Raises:
        ValueError: It is no duration, or zero.
    """
    length = duration_us(text) / 1_000_000
    if length <= 0:
        raise ValueError("it must be longer than nothing")
    return length


def count(text: str) -> int:
    """Read a whole number above zero.

    Raises:
        ValueError: It is none.
    """
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"'{text}' is no whole number above zero")
    return int(text)


def choice(*texts: str) -> Reader:
    """Return what reads one of some words, as it is.

    It raises ``ValueError`` for any other.
    """

    def read(text: str) -> str:
        if text not in texts:
            raise ValueError(f"'{text}' is none of {', '.join(texts)}")
        return text

    return read


def switch(text: str) -> bool:
    """Read ``true`` or ``false``.

    Raises:
        ValueError: It is neither.
    """
    return bool(choice("true", "false")(text) == "true")


def existing_file(text: str) -> str:
    """Read the path of a file.

    Raises:
        ValueError: There is none.
    """
    if not Path(text).is_file():
        raise ValueError(f"there is no file '{text}'")
    return text


def existing_folder(text: str) -> str:
    """Read the path of a folder.

    Raises:
        ValueError: There is none.
    """
    if not Path(text).is_dir():
        raise ValueError(f"there is no folder '{text}'")
    return text


def identifier(text: str) -> str:
    """Read a name that databases take unquoted: letters, digits and underscores.

    Raises:
        ValueError: It is none.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", text):
        raise ValueError(f"'{text}' is no name of lower-case letters, digits and underscores")
    return text
