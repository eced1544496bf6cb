"""URLs without their secrets, for storing and showing, and with environment variables filled in, for use.

A URL may hold secrets in two places: the password before ``@``, and options in its query, where each driver has its
own names (``password``, ``sslpassword``, ``odbc_connect``, ``token``). So every option counts as a secret unless it is
listed here as harmless. ``${NAME}`` stands for an environment variable that is read when the URL is used; it is not a
secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote, unquote_plus

from featurestore.core.errors import ConfigError

HIDDEN = "***"
"""Stands for a secret."""

_HARMLESS = frozenset({
    "account", "application_name", "cache", "catalog", "charset", "client_encoding", "connect_timeout", "database",
    "driver", "encrypt", "expire", "fallback_application_name", "gssencmode", "health_check_interval", "host",
    "http_path", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts",
    "mode", "nolock", "immutable", "pool", "pool_size", "port", "protocol", "read_timeout", "region", "role", "schema",
    "socket_connect_timeout", "socket_timeout", "ssl", "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile",
    "ssl_check_hostname", "sslcert", "sslcrl", "sslmode", "sslrootcert", "sslsni", "table", "target_session_attrs",
    "tcp_user_timeout", "timeout", "timezone", "trustservercertificate", "unix_socket", "uri", "user", "vfs",
    "warehouse", "write_timeout",
})  # fmt: skip
"""Options, in lower case, that hold no secret in any known driver."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def shown(url: str) -> str:
    """Return a URL with ``***`` for its password, and for the values of options that may be secrets.

    Text that is not a URL is returned unchanged if it has none of the characters that separate secrets in a URL.

    Example:
        >>> shown("postgresql://ann:secret@db/shop?sslmode=require&sslpassword=secret")
        'postgresql://ann:***@db/shop?sslmode=require&sslpassword=***'
        >>> shown("postgresql://ann:${SHOP_PASSWORD}@db/shop")
        'postgresql://ann:${SHOP_PASSWORD}@db/shop'
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        return HIDDEN if re.search(r"[@?;=]", _VARIABLE.sub("", url)) else url
    user, rest, query = _parts(url)
    name, colon, password = user.partition(":")
    if colon and not _is_variable(password):
        user = f"{name}:{HIDDEN}"
    options = "&".join(_shown_option(option) for option in re.split("[&;]", query or ""))
    return f"{scheme[0]}{user}{'@' if user else ''}{rest.partition('#')[0]}{'' if query is None else '?'}{options}"


def holds_secret(url: str) -> bool:
    """Return whether a URL holds a secret, which must not be stored or shown."""
    return bool(_SCHEME.match(url)) and any(True for _ in _secrets(url))


def without_secrets(text: str, url: str) -> str:
    """Return a text, for instance a driver's message, without the secrets of a URL."""
    forms = {form for secret in _secrets(url) for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


def expanded(url: str, *, where: str) -> str:
    """Return a URL with the values of the environment variables that it names.

    Values are percent-encoded, as passwords and options must be; a variable that is the whole URL is inserted
    unchanged.

    Args:
        url: The URL.
        where: The place that uses the URL, for messages.

    Raises:
        ConfigError: A variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(
                f"its URL names the environment variable {match[1]}, which is not set",
                where=where,
                hint="Set it for every process that reads the source.",
                code="url-variable",
            )
        text = os.environ[match[1]]
        return text if match[0] == url else quote(text, safe="")

    return _VARIABLE.sub(value, url)


def _parts(url: str) -> tuple[str, str, str | None]:
    """Split a URL behind its scheme into user and password, the rest, and the query; ``None`` without a query.

    A password ends at the last ``@``: it may hold ``/``, ``?`` and ``@``, although it should be percent-encoded.
    """
    scheme = _SCHEME.match(url)
    text = url[scheme.end() if scheme else 0 :]
    if not text.startswith("/"):
        before, mark, after = text.partition("?")
        if "@" not in before and "@" in after and ":" in before:
            before, mark, after = text, "", ""
        user, _, rest = before.rpartition("@")
        query = after if mark else None
        if not mark and "?" in rest:
            rest, _, query = rest.partition("?")
        return user, rest, query
    rest, mark, query = text.partition("?")
    return "", rest, query if mark else None


def _shown_option(option: str) -> str:
    name, mark, value = option.partition("=")
    if not mark or not value or _is_harmless(name, value):
        return option if mark or not option else HIDDEN
    return f"{name}={HIDDEN}"


def _is_harmless(name: str, value: str) -> bool:
    return unquote_plus(name).lower() in _HARMLESS or _is_variable(value)


def _is_variable(text: str) -> bool:
    return _VARIABLE.fullmatch(text) is not None


def _secrets(url: str) -> Iterator[str]:
    """Yield the secrets of a URL as they are written in it."""
    user, _, query = _parts(url)
    password = user.partition(":")[2]
    if password and password != HIDDEN and not _is_variable(password):
        yield password
    for option in re.split("[&;]", query or ""):
        name, mark, value = option.partition("=")
        secret = value if mark else name
        if secret and secret != HIDDEN and not (mark and _is_harmless(name, value)):
            yield secret


def _forms(secret: str) -> set[str]:
    """Return the forms of a secret that may appear in a message: as in the URL, decoded, and its parts."""
    decoded = {secret, unquote(secret), unquote_plus(secret)}
    parts = {part.partition("=")[2] for text in decoded for part in text.split(";")}
    return {text for text in decoded | parts if len(text) >= _LEAST_CHARACTERS}


_LEAST_CHARACTERS = 3
"""Shorter secrets are not searched for in messages: they would match everywhere."""
