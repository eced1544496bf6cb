"""A name while it is held, and how every store says that it is not."""

from __future__ import annotations

from typing import Protocol

from featurestore.core.errors import RegistryError, StateError, StorageError

UNANSWERED = (RegistryError, StorageError)
"""What is raised where a store cannot be asked; the next time may succeed."""


class Hold(Protocol):
    """A name while it is held."""

    def is_held(self) -> bool:
        """Ask whether the name is still held; may be called from several threads, until it is given back.

        Once ``False``, always ``False``: somebody else holds the name, or may from now on. A store that cannot be asked
        raises nothing: the name is held for as long as nobody else can have got it. ``True`` is true when it is said;
        who works for long asks again and again.
        """
        ...


def busy(name: str, where: str) -> StateError:
    """Return the error for a name that somebody else holds.

    Args:
        name: The name.
        where: The store that says so.
    """
    return StateError(f"somebody else holds '{name}'", where=where, hint="Wait until it has ended.", code="busy")


def lost(name: str, where: str) -> StateError:
    """Return the error for a name that was held and is not any more.

    Args:
        name: The name.
        where: The store that says so.
    """
    return StateError(
        f"'{name}' was no longer held when the work ended: the store was away for too long, or somebody took it away",
        where=where,
        hint="Somebody else may have held it meanwhile; conditional writes were still safe. Run it again.",
        code="lease-lost",
    )
