"""What an online store must be able to do: a few methods over bytes, so that another one is a small class.

Keys and values are bytes; the store knows nothing of features. A key is eight bytes of the view's fingerprint, four of
its generation, and the entity key; the view's own record has the first eight bytes alone. Reading is one snapshot and
writing is all or nothing, on a condition if wanted: with these two a lookup beside a run sees the state before it or
after it, and of two writers that read the same state one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from featurestore.core.errors import StateError
from featurestore.core.temporal import NOTHING_YET, duration_us
from featurestore.storage import Hold


class StateReads(Protocol):
    """The part of an online store that lookups need."""

    def read(self, keys: Sequence[bytes], /) -> Mapping[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment."""
        ...


class OnlineStore(Protocol):
    """A map from bytes to bytes that is read as snapshots and written in transactions.

    A store may say by an attribute ``items_at_once`` how many items are good to read or write at once: so many that it
    is fast, and so few that lookups beside it do not wait long. That is advice; any number is taken. By ``keeps_time``
    it says that reads end when ``patience`` says, if need be with a ``StorageError`` of code ``OUT_OF_TIME``; others
    are read in threads where nobody may be kept waiting.

    A store may have a method ``what_is_left``, which overwrites what was deleted as far as it can, and gives a sentence
    that says where it may still be, or an empty text.

    Two more methods let lost states be noticed (``featurestore.online.state.losses``); without them they are not.
    ``count`` takes a prefix and returns how many keys begin with it, or ``None`` if the store drops keys by their age.
    ``why_it_drops_keys`` returns why the server may drop keys by itself at present, or an empty text. A store that
    drops a state by its age says by an attribute ``drops_after_us`` how long after its last write; 0 stands for never.
    """

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment.

        Raises:
            StorageError: The store cannot be read.
        """
        ...

    def write(
        self, items: Sequence[tuple[bytes, bytes]], *, expected: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        """Set values, all or none; when it returns, readers see them, also after a crash of any process.

        Args:
            items: Keys with their new values.
            expected: Keys with the values they must still have, ``None`` for none; checked in the same transaction.

        An older write so never replaces a newer value, if whoever writes expects what it read: of writes that follow
        from the same values, one succeeds.

        Raises:
            StateError: A key does not have its expected value; nothing was written.
            StorageError: The store did not confirm the write. Nothing was written, or, if the connection broke before
                the answer came, perhaps all of it; never a part.
        """
        ...

    def delete(self, prefix: bytes) -> int:
        """Delete all keys that begin with a prefix; return how many there were.

        Keys that are written meanwhile may stay.

        Raises:
            StorageError: The store cannot be written.
        """
        ...

    def exclusive(self, name: str) -> AbstractContextManager[Hold]:
        """Hold a name alone among all processes; it is free again when the holder ends, however it ends.

        A store may need some seconds to notice that a holder has died, and may lose a name when its server restarts or
        cannot be reached; the hold then says so. So holding a name spares work; what keeps values right is
        ``expected``.

        Raises:
            StateError: Somebody else holds it; or, when it is given back, it was lost meanwhile.
            StorageError: The store cannot be asked.
        """
        ...

    def close(self) -> None:
        """Give back connections that are not in use; the store can be used again, and reads under way are answered."""
        ...


MOST_PUSH_US = duration_us("2s")
"""How long a push may be under way."""

ENTITY_FORGOTTEN = -1
"""Stands for the count of rows below the watermark when the states do not hold all of them any more, on purpose."""


class FillProgress(msgspec.Struct, frozen=True):
    """How far a run came that folds everything into states nobody reads yet.

    Attributes:
        generation: The generation it fills.
        reach_us: Events that matter only before were dropped.
        done_us: Every event with ``ingest_time < done_us`` was folded in.
        done_content: Content of these events.
        pending_us: Up to where events may have been folded into some states.
        pending_rows: Count of the source's events below that.
        pending_content: Content of these.
    """

    generation: int
    reach_us: int
    done_us: int = NOTHING_YET
    done_content: int = 0
    pending_us: int = NOTHING_YET
    pending_rows: int = 0
    pending_content: int = 0


def items_at_once(store: OnlineStore) -> int:
    """Return how many items are good to read or write at once."""
    return int(getattr(store, "items_at_once", 8_000))


def what_is_left(store: OnlineStore) -> str:
    """Overwrite what was deleted from a store as far as it can; return a sentence that says where it may still be.

    Raises:
        StorageError: The store cannot be written.
    """
    return str(getattr(store, "what_is_left", str)())


UNCOUNTED = -1
"""Stands for a count of states, or of the log's events, that is not known."""


STATES_LOST = "states-lost"
"""Code of a view of which states are gone: it answers nothing."""

AHEAD_OF_LOG = "state-ahead-of-log"
"""Code of a view whose states hold events that the log has no more: its answers say that they are stale."""


class Loss(msgspec.Struct, frozen=True):
    """Why the states of a view are not what its sources and its log hold.

    Attributes:
        code: ``STATES_LOST`` or ``AHEAD_OF_LOG``.
        problem: What was found.
        sound_us: Up to this instant the states are what they should be, as far as that is known.
    """

    code: str
    problem: str
    sound_us: int = 0


class ViewRecord(msgspec.Struct, frozen=True):
    """What a store knows about its states of one view.

    Attributes:
        view: Name of the view.
        fingerprint: The view's fingerprint.
        generation: The states that are valid; a rebuild fills the next one beside it.
        watermark_us: Every event with ``ingest_time < watermark_us`` was folded in.
        reach_us: Earliest instant that can be asked about.
        rows_below: Count of the source's events below the watermark when it was set; ``ENTITY_FORGOTTEN`` makes the
            next run rebuild.
        pending_us: Up to where a run may have folded events into some states; a run that ended moved the watermark
            there.
        pending_rows: Count of the source's events below that when the run began.
        log_us: Every pushed event with ``ingest_time < log_us`` was folded in; never below the watermark for a source
            that accepts pushes, ``NOTHING_YET`` for others. The counts above leave pushed events out.
        outside: Identity of the rows outside the log, if all of them became known before the watermark; else empty.
        content: Content of the source's events below the watermark when they were folded; ``None`` if unknown.
        pending_content: Content of those below ``pending_us``; ``None`` if unknown.
        filling: A run that folds everything and has not ended; ``None`` if there is none.
        leftover: Generation that was replaced, whose states may still be there; ``None`` if they are gone.
        push_us: An instant after which events may have become known that are on their way into the states: a push is
            under way; ``None`` if none is.
        forgets: Grows whenever states are removed because an entity is forgotten: what was read before is not written
            after.
        states: How many states the valid generation has; ``UNCOUNTED`` if that is not known. Fewer in the store are a
            loss.
        is_counting: Whether a run may have written states that ``states`` leaves out.
        log_sequence: How many events the log had when the states were followed to its head; ``UNCOUNTED`` if they have
            been followed further since, but not to its head.
        log_mark: The log's mark at that event; empty if it is not known.
        lost: Why the states are not what they should be; ``None`` if they are. No push is folded any more; a rebuild
            ends it.
    """

    view: str
    fingerprint: str
    generation: int = 0
    watermark_us: int = NOTHING_YET
    reach_us: int = NOTHING_YET
    rows_below: int = 0
    pending_us: int = NOTHING_YET
    pending_rows: int = 0
    log_us: int = NOTHING_YET
    outside: str = ""
    content: int | None = None
    pending_content: int | None = None
    filling: FillProgress | None = None
    leftover: int | None = None
    push_us: int | None = None
    forgets: int = 0
    states: int = UNCOUNTED
    is_counting: bool = False
    log_sequence: int = UNCOUNTED
    log_mark: str = ""
    lost: Loss | None = None

    def settled_us(self, now_us: int, period_us: int) -> int:
        """Return the latest instant up to the present one of which a lookup may be asked without missing a push.

        A push that takes longer than ``MOST_PUSH_US`` is taken for dead, and not waited for. On a grid no push
        under way is served.
        """
        if self.push_us is None or period_us or not 0 <= now_us - self.push_us < MOST_PUSH_US:
            return now_us
        return self.push_us

    def bound_us(self, period_us: int) -> int:
        """Return the exclusive bound of the ingest times a lookup may use.

        On a grid that is the watermark: a refresh is served whole. A continuous view is answered from all events
        there are, and says itself up to when it is complete.
        """
        return self.watermark_us if period_us else max(self.watermark_us, self.log_us)


RECORD_KEY_BYTES = 8


class PlanOfView(Protocol):
    """What a store needs to know of a view's plan."""

    @property
    def name(self) -> str:
        """Name of the view."""
        ...

    @property
    def fingerprint(self) -> str:
        """The plan's fingerprint."""
        ...


def record_key(view: PlanOfView) -> bytes:
    """Return the key of a view's record."""
    return bytes.fromhex(view.fingerprint[: 2 * RECORD_KEY_BYTES])


def is_state_key(key: bytes) -> bool:
    """Tell whether a key is that of an entity's state, and not of a view's record."""
    return len(key) > RECORD_KEY_BYTES


def state_prefix(view: PlanOfView, generation: int) -> bytes:
    """Return what the keys of a view's states of one generation begin with."""
    return record_key(view) + generation.to_bytes(4, "big")


def decode_record(view: PlanOfView, stored: bytes | None) -> ViewRecord:
    """Read a view's record; an empty one if there is none.

    Raises:
        StateError: It is damaged, or of another view.
    """
    if stored is None:
        return ViewRecord(view.name, view.fingerprint)
    where = f"online state of feature view '{view.name}'"
    try:
        record = msgspec.json.decode(stored, type=ViewRecord)
    except msgspec.MsgspecError as error:
        raise StateError(f"its record is damaged: {error}", where=where, code="corrupt-state") from None
    if record.fingerprint != view.fingerprint:
        raise StateError("its record belongs to another definition", where=where, code="foreign-state")
    return record


def encode_record(record: ViewRecord) -> bytes:
    """Return the stored form of a record."""
    return msgspec.json.encode(record)


def records_of(store: StateReads, views: Iterable[PlanOfView]) -> Mapping[str, ViewRecord]:
    """Return the records of several views by name, from one moment."""
    keys = {view.name: (view, record_key(view)) for view in views}
    found = store.read([key for _, key in keys.values()])
    return {name: decode_record(view, found.get(key)) for name, (view, key) in keys.items()}


def check_materialized(record: ViewRecord) -> None:
    """Make sure that a view has online state that can be used.

    Raises:
        StateError: Nothing was materialized yet, or a part of the states was lost.
    """
    if record.lost is not None and record.lost.code != AHEAD_OF_LOG:
        raise loss_error(record.view, record.lost)
    if record.watermark_us == NOTHING_YET:
        raise StateError(
            "nothing is materialized yet",
            where=f"feature view '{record.view}'",
            hint=f"Run store.materialize(views=['{record.view}']).",
            code="not-materialized",
        )


def loss_error(view: str, loss: Loss) -> StateError:
    """Return the error of a view whose states cannot be used, with the command that rebuilds them."""
    return StateError(
        loss.problem,
        where=f"feature view '{view}'",
        hint=f"Run 'featurestore materialize --views {view}' or store.materialize(views=['{view}']): it rebuilds them.",
        code=loss.code,
    )


def count_states(store: OnlineStore, prefix: bytes) -> int | None:
    """Return how many keys begin with a prefix; ``None`` if the store cannot tell, or drops keys by their age.

    Raises:
        StorageError: The store cannot be read.
    """
    count = getattr(store, "count", None)
    return None if count is None else count(prefix)


def why_it_drops_keys(store: OnlineStore) -> str:
    """Return why the store may drop keys by itself at present; empty if it does not, or cannot tell.

    Raises:
        StorageError: The store cannot be asked.
    """
    return str(getattr(store, "why_it_drops_keys", str)())


def after(prefix: bytes) -> bytes | None:
    """Return the smallest key after all that begin with a prefix; ``None`` if there is none.

    Example:
        >>> after(b"ab")
        b'ac'
    """
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
