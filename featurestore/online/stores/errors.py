"""Errors of online stores: one text and one code for each failure, the same for all stores."""

from __future__ import annotations

from featurestore.core.errors import ConfigError, StateError, StorageError

WHERE = "online store"

UNAVAILABLE = "store-unavailable"
"""Code of transient failures: a later attempt may succeed."""


STORE_EVICTS = "store-evicts"
"""Code of a store whose server may evict states."""


def conflict() -> StateError:
    """Return the error for a conditional write whose condition does not hold."""
    return StateError(
        "another process changed it meanwhile",
        where=WHERE,
        hint="Nothing was written. Run it again.",
        code="conflict",
    )


SERVER_HINT = "Check that the server runs and can be reached, then try again."


def drops_keys(reason: str) -> StorageError:
    """Return the error for a store whose server may evict states: an absent state then proves nothing.

    Args:
        reason: Why it may evict them.
    """
    return StorageError(
        f"{reason}; an entity whose state was evicted would look like one that was never seen",
        where=WHERE,
        hint="Set the server's maxmemory-policy to noeviction, then run 'featurestore materialize': it rebuilds lost"
        " states.",
        code=STORE_EVICTS,
    )


READ_ONLY_HINT = (
    "The server is a replica. Its connections were closed. Try again: new connections reach the primary if the address "
    "leads to it."
)


def unavailable(verb: str, place: str, error: object, hint: str = SERVER_HINT) -> StorageError:
    """Return the error for a store that does not answer in time.

    Args:
        verb: The operation that failed: ``"read"``.
        place: The store, without secrets.
        error: The error of its client.
        hint: How to fix it.
    """
    return StorageError(
        f"cannot {verb} {place}: {first_line(error)}",
        where=WHERE,
        hint=hint,
        code=UNAVAILABLE,
    )


def pooled_by_transaction() -> ConfigError:
    """Return the error for a pooler that does not keep sessions, which the online store needs for locks."""
    return ConfigError(
        "a connection pooler between this process and PostgreSQL (such as PgBouncer) runs each transaction in any "
        "session of the server: the online store can neither hold locks nor prepare statements",
        where=WHERE,
        hint="Connect to PostgreSQL directly, or let the pooler pool by session (pool_mode = session). The registry "
        "and the event log can use this pooler.",
        code="transaction-pooler",
    )


FAILED_HINT = "Check that the user has the permission, and that the server has free space."


def failed(verb: str, place: str, error: object, hint: str = FAILED_HINT) -> StorageError:
    """Return the error for a store that reports a failure which another attempt would meet as well.

    Args:
        verb: The operation that failed: ``"read"``.
        place: The store, without secrets.
        error: The error of its client.
        hint: How to fix it.
    """
    return StorageError(f"cannot {verb} {place}: {first_line(error)}", where=WHERE, hint=hint)


def first_line(error: object) -> str:
    """Return the first line of an error's text, or its class if the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
