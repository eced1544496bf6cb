"""API keys: which requests a caller of the server may make. They are in the database of the registry.

A key is shown once, when it is made: ``fs_<id>_<secret>``. What is stored is the SHA-256 of its secret. A slow hash, as
for passwords, would gain nothing: the secret has 256 random bits and cannot be guessed.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hmac import compare_digest

import sqlalchemy as sa

from featurestore.core.errors import RegistryError
from featurestore.storage.database import failures, for_writing, open_database

_WHERE = "API keys"
_PREFIX = "fs"
_METADATA = sa.MetaData()
_KEYS = sa.Table(
    "api_keys",
    _METADATA,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("scopes", sa.String(100), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("revoked_at_us", sa.BigInteger, nullable=True),
)


class Scope(StrEnum):
    """What a key may do.

    ``READ``: ask for features. ``WRITE``: push events. ``ADMIN``: everything.
    """

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored.

    Attributes:
        id: Names the key; part of it, and no secret.
        name: What it is for.
        scopes: What it may do.
        digest: SHA-256 of its secret.
        created_at_us: When it was made.
        revoked_at_us: When it was revoked; ``None`` if it holds.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    digest: bytes
    created_at_us: int
    revoked_at_us: int | None

    def allows(self, scope: Scope) -> bool:
        """Return whether the key may do something."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def is_opened_by(self, secret: str) -> bool:
        """Return whether the key holds and a secret is its own; how long that takes says nothing about the secret."""
        is_same = compare_digest(hashlib.sha256(secret.encode()).digest(), self.digest)
        return is_same and self.revoked_at_us is None


class ApiKeys:
    """The keys of one registry. May be used from several threads and processes."""

    def __init__(self, url: str) -> None:
        """Open the keys, and make their table if it is absent.

        Args:
            url: SQLAlchemy URL of the registry.

        Raises:
            RegistryError: The database cannot be used.
        """
        self._engine = open_database(url, where=_WHERE)
        try:
            with self._writing() as connection:
                _METADATA.create_all(connection)
        except RegistryError:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def create(self, name: str, scopes: Iterable[Scope], *, now_us: int) -> tuple[ApiKey, str]:
        """Make a key.

        Returns:
            What is stored; and the key itself, which cannot be had again.

        Raises:
            RegistryError: There is no scope, or the database cannot be written.
        """
        wanted = frozenset(scopes)
        if not wanted:
            hint = "Give read, write or admin."
            raise RegistryError("a key without a scope may do nothing", where=_WHERE, hint=hint, code="no-scope")
        secret = secrets.token_urlsafe(32)
        key = ApiKey(
            id=secrets.token_hex(6),
            name=name,
            scopes=wanted,
            digest=hashlib.sha256(secret.encode()).digest(),
            created_at_us=now_us,
            revoked_at_us=None,
        )
        with self._writing() as connection:
            connection.execute(
                sa.insert(_KEYS).values(
                    id=key.id, name=name, scopes=" ".join(sorted(wanted)), digest=key.digest, created_at_us=now_us
                )
            )
        return key, f"{_PREFIX}_{key.id}_{secret}"

    def all(self) -> tuple[ApiKey, ...]:
        """Return every key that was ever made, oldest first.

        Raises:
            RegistryError: The database cannot be read.
        """
        with failures(_WHERE), self._engine.connect() as connection:
            rows = connection.execute(sa.select(_KEYS).order_by(_KEYS.c.created_at_us, _KEYS.c.id)).all()
        return tuple(
            ApiKey(
                id=row.id,
                name=row.name,
                scopes=frozenset(map(Scope, row.scopes.split())),
                digest=bytes(row.digest),
                created_at_us=row.created_at_us,
                revoked_at_us=row.revoked_at_us,
            )
            for row in rows
        )

    def revoke(self, key_id: str, *, now_us: int) -> None:
        """Let a key hold no longer; servers notice within a second.

        Raises:
            RegistryError: The key does not exist, or the database cannot be written.
        """
        is_it = (_KEYS.c.id == key_id) & _KEYS.c.revoked_at_us.is_(None)
        with self._writing() as connection:
            changed = connection.execute(sa.update(_KEYS).where(is_it).values(revoked_at_us=now_us)).rowcount
        if not changed:
            hint = "featurestore keys list shows them."
            raise RegistryError(f"there is no valid key '{key_id}'", where=_WHERE, hint=hint, code="unknown-key")

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with failures(_WHERE), self._engine.connect() as connection, for_writing(connection).begin():
            yield connection


def split_key(text: str) -> tuple[str, str] | None:
    """Return id and secret of a key as it was shown; ``None`` if the text is not a key."""
    parts = text.split("_", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == _PREFIX else None
