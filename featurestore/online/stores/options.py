"""URLs of online stores and the options in their query."""

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
    """The parts of a URL.

    Attributes:
        url: The URL without the store's own options.
        shown: The URL without user, password and query, for messages.
        options: The store's own options, parsed.
    """

    url: SplitResult
    shown: str
    options: Mapping[str, Any]


def read_url(url: str, *, options: Mapping[str, Reader], client_options: frozenset[str] | None) -> StoreUrl:
    """Parse the URL of a store.

    Args:
        url: The URL.
        options: The store's own options, with the function that parses each.
        client_options: Names of options that are passed on to the client; ``None`` passes on all others.

    Raises:
        ConfigError: The URL is invalid, or an option is unknown, given twice, or invalid.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _unreadable() from None
    if parts.netloc.count("@") > 1 or "@" in parts.path + parts.fragment or any("@" in name for name, _ in pairs):
        raise _unreadable()
    shown = f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    values: dict[str, Any] = {}
    rest = []
    for name, text in pairs:
        if name in options:
            values[name] = _option(name, text, options[name], shown)
        elif client_options is None or name in client_options:
            rest.append((name, text))
        else:
            hint = listing("Options", {*options, *(client_options or ())}, wrong=name)
            raise ConfigError(f"'{shown}' has no option '{name}'", where=WHERE, hint=hint, code="store-url")
    if len({name for name, _ in pairs}) != len(pairs):
        raise ConfigError(f"an option of '{shown}' is given twice", where=WHERE, code="store-url")
    return StoreUrl(parts._replace(query=urlencode(rest)), shown, values)


def _unreadable() -> ConfigError:
    """Return the error for an invalid URL; it shows nothing of the URL, because any part may be the password."""
    hint = (
        "Percent-encode special characters in user, password and options: '@' is %40, '/' %2F, ':' %3A, '?' %3F, "
        "'#' %23."
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
        ValueError: It is not a duration, or zero.
    """
    length = duration_us(text) / 1_000_000
    if length <= 0:
        raise ValueError("it must be longer than zero")
    return length


def count(text: str) -> int:
    """Read a whole number above zero.

    Raises:
        ValueError: It is not such a number.
    """
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"'{text}' is not a whole number above zero")
    return int(text)


def choice(*texts: str) -> Reader:
    """Return a function that accepts one of some words and returns it.

    It raises ``ValueError`` for any other.
    """

    def read(text: str) -> str:
        if text not in texts:
            raise ValueError(f"'{text}' is not one of {', '.join(texts)}")
        return text

    return read


def switch(text: str) -> bool:
    """Read ``true`` or ``false``.

    Raises:
        ValueError: It is neither.
    """
    return bool(choice("true", "false")(text) == "true")


def existing_file(text: str) -> str:
    """Return the path of a file.

    Raises:
        ValueError: It does not exist.
    """
    if not Path(text).is_file():
        raise ValueError(f"there is no file '{text}'")
    return text


def existing_folder(text: str) -> str:
    """Return the path of a folder.

    Raises:
        ValueError: It does not exist.
    """
    if not Path(text).is_dir():
        raise ValueError(f"there is no folder '{text}'")
    return text


def identifier(text: str) -> str:
    """Return a name that databases accept without quotes: letters, digits and underscores.

    Raises:
        ValueError: It is not such a name.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", text):
        raise ValueError(f"'{text}' is not a name of lower-case letters, digits and underscores")
    return text
