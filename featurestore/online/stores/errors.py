"""How every online store says no: one wording and one code for each refusal, whatever the store."""

from __future__ import annotations

from featurestore.core.errors import ConfigError, StateError, StorageError

WHERE = "online store"

UNAVAILABLE = "store-unavailable"
"""Code of failures that may pass by themselves: asking again later can succeed."""


STORE_EVICTS = "store-evicts"
"""Code of a store whose server may drop states by itself."""


def conflict() -> StateError:
    """Return the error for a write whose condition does not hold."""
    return StateError(
        "it was changed by somebody else meanwhile",
        where=WHERE,
        hint="Run it again; nothing was written.",
        code="conflict",
    )


SERVER_HINT = "See that the server runs and can be reached; asking again later may succeed."


def drops_keys(reason: str) -> StorageError:
    """Return the error for a store whose server may drop states by itself: an absent state says nothing then.

    Args:
        reason: Why it may.
    """
    return StorageError(
        f"{reason}; an entity whose state was dropped would look like one that was never seen",
        where=WHERE,
        hint="Set the server's maxmemory-policy to noeviction, then run 'featurestore materialize': it rebuilds what"
        " was lost.",
        code=STORE_EVICTS,
    )


READ_ONLY_HINT = (
    "The server was a replica. Its connections were closed; asking again opens new ones, which reach the primary if "
    "the address leads to it."
)


def unavailable(verb: str, place: str, error: object, hint: str = SERVER_HINT) -> StorageError:
    """Return the error for a store that does not answer, or not in time.

    Args:
        verb: What was tried: ``"read"``.
        place: The store, without secrets.
        error: What its client said.
        hint: What to do.
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
        "a connection pooler between this process and PostgreSQL (such as PgBouncer) gives transactions to sessions of "
        "the server as it likes: names cannot be held alone, and statements cannot be prepared",
        where=WHERE,
        hint="Connect to PostgreSQL itself, or let the pooler pool by session (pool_mode = session). The registry and "
        "the event log may stay behind this pooler.",
        code="transaction-pooler",
    )


FAILED_HINT = "See that the user may do this, and that the server has room."


def failed(verb: str, place: str, error: object, hint: str = FAILED_HINT) -> StorageError:
    """Return the error for a store that answers with a failure, which will be the same next time.

    Args:
        verb: What was tried: ``"read"``.
        place: The store, without secrets.
        error: What its client said.
        hint: What to do.
    """
    return StorageError(f"cannot {verb} {place}: {first_line(error)}", where=WHERE, hint=hint)


def first_line(error: object) -> str:
    """Return the first line of what a client said, or its class if it said nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
