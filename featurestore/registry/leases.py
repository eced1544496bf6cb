"""Leases in the registry: one row for each name that is held.

A lease expires by the clock of the database, the only one that all processes share. By their own clocks, a machine
whose clock is ahead by more than a lease would see every lease as expired and take it beside its holder, and one whose
clock is behind would wait too long after a process has died. The holder needs no synchronized clock: it measures a
duration, from before its request.

Each operation is one statement, or a second one if the first changed nothing, and each statement is a transaction. So
of two concurrent requests the database lets one win, on SQLite and PostgreSQL. A process that is stopped at any point
keeps no row locked where transactions end with their statement. SQLite locks the whole database, as for everything that
the registry writes.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from featurestore.registry.tables import LEASES
from featurestore.storage.database import failures, for_statement

LEASE_SECONDS = 15.0
"""How long a name stays held after its process has died."""


class RegistryLeases:
    """LeaseStore in the registry's database, of any dialect that knows the standard's intervals, or SQLite's."""

    def __init__(self, engine: sa.Engine, where: str) -> None:
        """Take the registry's engine.

        Args:
            engine: The registry's database, which has its tables.
            where: What the database is, for messages.
        """
        self._engine = engine
        self._where = where

    def take(self, name: str, token: bytes, seconds: float) -> bool:
        """Make a token the holder of a name that is free or whose lease has run out; return whether it is now."""
        lease = {"token": token.hex(), "until": _FromNow(seconds)}
        run_out = LEASES.update().where(LEASES.c.name == name, LEASES.c.until < _FromNow(0)).values(lease)
        is_known = sa.exists().where(LEASES.c.name == name)
        values = sa.select(sa.literal(name), sa.literal(token.hex()), _FromNow(seconds)).where(~is_known)
        with failures(self._where), suppress(IntegrityError):  # of two that insert one is faster
            return self._does(run_out) or self._does(LEASES.insert().from_select(["name", "token", "until"], values))
        return False

    def renew(self, name: str, token: bytes, seconds: float) -> bool:
        """Extend the lease of a token from now on; return whether the token still held the name."""
        with failures(self._where):
            return self._does(LEASES.update().where(*_of(name, token)).values(until=_FromNow(seconds)))

    def release(self, name: str, token: bytes) -> bool:
        """Release a name that a token holds; return whether it still held it."""
        with failures(self._where):
            return self._does(LEASES.delete().where(*_of(name, token)))

    def _does(self, statement: sa.Insert | sa.Update | sa.Delete) -> bool:
        """Execute a statement in a transaction of its own; tell whether it did something."""
        with self._engine.connect() as connection, for_statement(connection).begin():
            return connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount > 0


def _of(name: str, token: bytes) -> tuple[sa.ColumnElement[bool], ...]:
    return LEASES.c.name == name, LEASES.c.token == token.hex()


class _FromNow(sa.ColumnElement[datetime]):
    """The instant some seconds from now by the database's clock, which a statement reads once, when it begins."""

    inherit_cache = False
    type = sa.DateTime(timezone=True)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


@compiles(_FromNow)
def _standard(element: _FromNow, _compiler: SQLCompiler, **_: Any) -> str:
    return f"(CURRENT_TIMESTAMP + INTERVAL '{element.seconds:.3f}' SECOND)"


@compiles(_FromNow, "sqlite")
def _sqlite(element: _FromNow, _compiler: SQLCompiler, **_: Any) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', '{element.seconds:+.3f} seconds')"
