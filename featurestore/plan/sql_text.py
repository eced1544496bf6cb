"""SQL text of sources as tokens: whether a query could return other rows when repeated, and where it ends.

The tokens decide: ``now()`` inside a string, a comment or a quoted name is not a call, and ``'now'`` reads the clock
where a database converts a string to a time. The module must not know how queries are sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<dollar>\$(?P<tag>[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*(?:'|$))
    | (?P<string>(?:[nNbBxX]|[uU]&)?'(?:[^']|'')*(?:'|$))
    | (?P<quoted>"(?:[^"]|"")*(?:"|$)|`(?:[^`]|``)*(?:`|$))
    | (?P<number>\.?\d[\w.]*)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<symbol>::|<=|>=|<>|!=|==|\|\||->>|->|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BRACKETED = re.compile(r"\[([^\]]*)\]")
_BRACKETS = frozenset({"sqlite", "mssql"})
_BACKSLASHES = frozenset({"mysql", "mariadb"})
_MYSQL = re.compile(
    r"""(?P<space>\#[^\n]*)|(?P<escaped>'(?:[^'\\]|\\.|'')*(?:'|$)|"(?:[^"\\]|\\.|"")*(?:"|$))""", re.DOTALL
)
_WITHOUT_SPECIAL_TIMES = frozenset({"sqlite", "mysql", "mariadb", "mssql", "oracle"})


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CALLS = _names(
    """
    now now64 random rand randn rand32 rand64 random_normal randstr uniform randomblob randombytes setseed dbms_random
    uuid uuid_short uuidv4 uuidv7 newid newsequentialid generate_uuid gen_random_uuid generateuuidv4 gen_random_bytes
    uuid_generate_v1 uuid_generate_v1mc uuid_generate_v4 sys_guid
    clock_timestamp statement_timestamp transaction_timestamp timeofday getdate getutcdate sysdate sysdatetime
    sysutcdatetime sysdatetimeoffset systimestamp curdate curtime utc_date utc_time utc_timestamp today yesterday
    current_date current_time current_timestamp current_datetime current_localtime current_localtimestamp
    get_current_time get_current_timestamp localtime localtimestamp
    nextval currval lastval last_insert_id last_insert_rowid changes total_changes
    txid_current txid_current_snapshot pg_current_xact_id pg_current_snapshot pg_backend_pid pg_sleep
    current_setting set_config pg_read_file pg_read_binary_file pg_ls_dir pg_stat_file pg_postmaster_start_time
    pg_conf_load_time inet_client_addr inet_client_port load_extension readfile connection_id
    """
)
"""Functions of databases whose result depends on the time, the place, or chance."""

_CLOCKS_WITHOUT_ARGUMENTS = frozenset({"date", "time", "datetime", "julianday", "unixepoch", "unix_timestamp"})
"""Functions that read the clock if they have no argument."""

_SQLITE_TIMES = frozenset({"date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"})
_SQLITE_NOW = frozenset({"now", "localtime", "utc", "subsec", "subsecond"})
"""Arguments for which SQLite's functions of time read the clock or the machine's zone."""

_WORDS = frozenset({"current_date", "current_time", "current_timestamp"})
_MORE_WORDS = _names(
    """
    localtime localtimestamp sysdate systimestamp utc_date utc_time utc_timestamp
    current_user session_user current_role current_datetime
    """
)
"""Words that read the clock or the current user, except in SQLite, where they are names."""

_SPECIAL_TIMES = frozenset({"now", "today", "tomorrow", "yesterday"})
"""Strings for which PostgreSQL reads the clock where it converts them to a time."""

_TEXT_TYPES = frozenset({"text", "varchar", "char", "character", "bpchar", "name", "citext", "json", "jsonb", "bytea"})
_TEXT_FUNCTIONS = _names(
    """
    lower upper concat concat_ws replace position strpos starts_with length char_length trim btrim ltrim rtrim md5
    left right substring substr split_part regexp_replace regexp_match regexp_matches format initcap to_json to_jsonb
    """
)
_COMPARES_TEXT = frozenset({"=", "<>", "!=", "like", "ilike", "~", "||", "->", "->>", "?"})
_STARTS_CONSTANT = frozenset({"select", ",", "distinct", "all"})
_ENDS_CONSTANT = frozenset({"as", ",", "from"})


@dataclass(frozen=True)
class Token:
    """A piece of SQL text.

    Attributes:
        kind: ``word``, ``quoted`` (a name), ``string``, ``number`` or ``symbol``.
        value: Words in lower case; names and strings without their quotes; symbols as they are.
        end: Where it ends in the text.
    """

    kind: str
    value: str
    end: int

    def is_symbol(self, value: str) -> bool:
        """Return whether this is the given symbol."""
        return self.kind == "symbol" and self.value == value


_NOTHING = Token("symbol", "", 0)


def tokens_of(text: str, dialect: str = "") -> list[Token]:
    """Cut SQL text into tokens; spaces and comments are left out.

    Args:
        text: The SQL text. A string or comment that is not closed ends with the text.
        dialect: Name of the database, as URLs begin with it; it decides the meaning of brackets and backslashes.
    """
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        bracketed = _BRACKETED.match(text, at) if dialect in _BRACKETS else None
        if bracketed is not None:
            at = bracketed.end()
            tokens.append(Token("quoted", bracketed[1], at))
            continue
        match = (_MYSQL.match(text, at) if dialect in _BACKSLASHES else None) or _TOKEN.match(text, at)
        assert match is not None, "every character is at least a symbol"
        kind, at = str(match.lastgroup), match.end()
        kind = "dollar" if kind == "tag" else kind
        if kind == "comment":
            at = _comment_end(text, at, is_nested=dialect not in ("sqlite", "mysql", "mariadb"))
        elif kind == "dollar":
            stop = text.find(match["dollar"], at)
            stop = len(text) if stop < 0 else stop
            tokens.append(Token("string", text[at:stop], min(len(text), stop + len(match["dollar"]))))
            at = tokens[-1].end
        elif kind != "space":
            tokens.append(_token(kind, match[0], at))
    return tokens


def _token(kind: str, text: str, end: int) -> Token:
    match kind:
        case "word":
            return Token("word", text.lower(), end)
        case "string" | "escaped":
            quote = text[-1] if text[-1] in "'\"" else "'"
            return Token("string", text[text.index(quote) + 1 :].removesuffix(quote).replace(quote * 2, quote), end)
        case "quoted":
            return Token("quoted", text[1:].removesuffix(text[0]).replace(text[0] * 2, text[0]), end)
        case _:
            return Token(kind, text, end)


def _comment_end(text: str, at: int, *, is_nested: bool) -> int:
    depth = 1
    while depth and at < len(text):
        if text.startswith("*/", at):
            depth, at = depth - 1, at + 2
        elif is_nested and text.startswith("/*", at):
            depth, at = depth + 1, at + 2
        else:
            at += 1
    return at


def without_end(text: str, dialect: str = "") -> str:
    """Return a query without its final semicolons and the comments after them."""
    tokens = tokens_of(text, dialect)
    while tokens and tokens[-1].is_symbol(";"):
        tokens.pop()
    return text[: tokens[-1].end] if tokens else ""


def dialect_of(url: str) -> str:
    """Return the name of the database that a SQLAlchemy URL begins with."""
    name = url.partition(":")[0].partition("+")[0].lower()
    return {"postgres": "postgresql"}.get(name, name)


def impurity(text: str, dialect: str = "") -> str | None:
    """Return the part of a query that could return other rows when it is repeated; ``None`` if there is none.

    Args:
        text: The query.
        dialect: Name of the database.
    """
    tokens = tokens_of(text, dialect)
    for place, token in enumerate(tokens):
        word = _impure_token(tokens, place, token, dialect)
        if word is not None:
            return word
    return None


def times_or_texts(text: str, dialect: str = "") -> frozenset[str]:
    """Return the strings of a query for which the database reads the clock where it converts them to times.

    ``impurity`` finds those that are certainly converted. For the others that depends on the types of columns.
    """
    if dialect in _WITHOUT_SPECIAL_TIMES:
        return frozenset()
    tokens = (token for token in tokens_of(text, dialect) if token.kind == "string")
    return frozenset(token.value for token in tokens if token.value.strip().lower() in _SPECIAL_TIMES)


def _at(tokens: Sequence[Token], place: int) -> Token:
    return tokens[place] if 0 <= place < len(tokens) else _NOTHING


def _impure_token(tokens: Sequence[Token], place: int, token: Token, dialect: str) -> str | None:
    before, after = _at(tokens, place - 1), _at(tokens, place + 1)
    if token.kind in ("word", "quoted") and after.is_symbol("("):
        return _impure_call(tokens, place, dialect)
    if token.kind == "word" and not before.is_symbol(".") and not after.is_symbol("."):
        if token.value == "tablesample" or (token.value == "sample" and before.value == "using"):
            return token.value.upper()
        is_clock = token.value in _WORDS or (dialect != "sqlite" and token.value in _MORE_WORDS)
        if is_clock and not (before.kind == "word" and before.value == "as"):
            return token.value
    if token.kind == "word" and token.value == "dbms_random":
        return token.value
    if (
        token.kind == "string"
        and dialect not in _WITHOUT_SPECIAL_TIMES
        and token.value.strip().lower() in _SPECIAL_TIMES
    ):
        return None if _is_plain_text(tokens, place) else f"'{token.value}'"
    return None


def _impure_call(tokens: Sequence[Token], place: int, dialect: str) -> str | None:
    """Return the name of the function at a place if its call reads the clock, the session or chance."""
    name = tokens[place].value.lower()
    arguments = list(_arguments(tokens, place + 1))
    if name in _CALLS and not (name == "changes" and dialect != "sqlite"):
        return name
    if not arguments and name in _CLOCKS_WITHOUT_ARGUMENTS:
        return f"{name}()"
    if name == "age" and len(arguments) == 1 and dialect != "sqlite":
        return "age() of one time"
    if dialect == "sqlite" and name in _SQLITE_TIMES:
        if name == "strftime" and len(arguments) == 1:
            return "strftime() without a time"
        for argument in arguments:
            # SQLite reads a quoted name that no column has as a string.
            texts = {token.value.strip().lower() for token in argument if token.kind in ("string", "quoted")}
            if "now" in texts:
                return "'now'"
            if len(argument) == 1 and argument[0].kind == "string" and texts & _SQLITE_NOW:
                return f"'{argument[0].value}'"
    return None


def _arguments(tokens: Sequence[Token], place: int) -> Iterator[list[Token]]:
    """Yield the arguments between the parenthesis at a place and the one that closes it."""
    depth, argument = 0, list[Token]()
    for token in tokens[place:]:
        if token.is_symbol("("):
            depth += 1
            if depth == 1:
                continue
        elif token.is_symbol(")"):
            depth -= 1
            if depth == 0:
                break
        elif token.is_symbol(",") and depth == 1:
            yield argument
            argument = []
            continue
        argument.append(token)
    if argument:
        yield argument


def _is_plain_text(tokens: Sequence[Token], place: int) -> bool:
    """Return whether the database keeps a string as text at its place, and does not convert it to a time."""
    before, after = _at(tokens, place - 1), _at(tokens, place + 1)
    if after.is_symbol("::"):
        return _at(tokens, place + 2).value in _TEXT_TYPES
    if after.value == "as" and _is_call_of(tokens, place, frozenset({"cast", "try_cast"})):
        return _at(tokens, place + 2).value in _TEXT_TYPES
    if before.kind == "word" and before.value in _TEXT_TYPES:
        return True
    if before.value in _COMPARES_TEXT or after.value in _COMPARES_TEXT:
        return True
    if before.value in _STARTS_CONSTANT and after.value in _ENDS_CONSTANT and not _is_inside_call(tokens, place):
        return True
    if before.value in ("then", "else"):
        branches = [_at(tokens, i + 1) for i, token in enumerate(tokens) if token.value in ("then", "else")]
        return all(branch.kind in ("string", "number") or branch.value == "null" for branch in branches)
    return _is_in_list(tokens, place) or _is_call_of(tokens, place, _TEXT_FUNCTIONS)


def _opening(tokens: Sequence[Token], place: int) -> int:
    """Return the place of the parenthesis around a token, -1 if there is none."""
    depth = 0
    for i in range(place - 1, -1, -1):
        if tokens[i].is_symbol(")"):
            depth += 1
        elif tokens[i].is_symbol("("):
            if depth == 0:
                return i
            depth -= 1
    return -1


def _is_call_of(tokens: Sequence[Token], place: int, names: frozenset[str]) -> bool:
    opening = _opening(tokens, place)
    return opening > 0 and tokens[opening - 1].kind == "word" and tokens[opening - 1].value in names


def _is_inside_call(tokens: Sequence[Token], place: int) -> bool:
    """Return whether a token is an argument of a call, and not in a subquery."""
    opening = _opening(tokens, place)
    return opening >= 0 and _at(tokens, opening + 1).value != "select"


def _is_in_list(tokens: Sequence[Token], place: int) -> bool:
    """Return whether a token stands in ``IN (…)`` beside strings only."""
    opening = _opening(tokens, place)
    return opening > 0 and _at(tokens, opening - 1).value == "in" and _at(tokens, opening + 1).kind == "string"
