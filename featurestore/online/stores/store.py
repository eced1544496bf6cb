"""The protocol of online stores, and the records that they keep of views.

A store has a few methods over bytes and knows nothing of features, so a new store is a small class. A key is eight
bytes of the view's fingerprint, four of its generation, and the entity key; the key of the view's record is the first
eight bytes alone. A read is one snapshot; a write is atomic and may have a condition. So a lookup during a run sees the
state before it or after it, and of two writers that read the same state one is refused.
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

    Optional attribute ``items_at_once``: the best number of items per read or write, large enough to be fast and small
    enough that concurrent lookups do not wait long. Larger numbers are accepted.

    Optional attribute ``keeps_time``: whether reads end at their deadline (``stores.deadline``), if necessary with a
    ``StorageError`` of code ``OUT_OF_TIME``. Other stores are read in threads where a caller must not be blocked.

    Optional attribute ``drops_after_us``: how long after its last write a state expires; 0 stands for never.

    Optional method ``what_is_left``: overwrites deleted data as far as possible, and returns a sentence that names the
    places that may still hold it, or an empty text.

    Two optional methods make lost states detectable (``featurestore.online.state.losses``). ``count`` takes a prefix
    and returns how many keys begin with it, or ``None`` if keys expire. ``why_it_drops_keys`` returns the reason why
    the server may currently evict keys, or an empty text.
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
        """Set values, all or none. When it returns, readers see them, even after a crash of any process.

        Args:
            items: Keys with their new values.
            expected: Keys with the values they must still have, ``None`` for a key that must not exist; checked in the
                same transaction.

        A writer that expects the values it has read never overwrites a newer value: of several writes that are based on
        the same values, one succeeds.

        Raises:
            StateError: A key does not have its expected value; nothing was written.
            StorageError: The store did not confirm the write. Nothing was written, or all of it if the connection broke
                before the answer; never a part.
        """
        ...

    def delete(self, prefix: bytes) -> int:
        """Delete all keys that begin with a prefix; return how many there were.

        Keys that are written concurrently may remain.

        Raises:
            StorageError: The store cannot be written.
        """
        ...

    def exclusive(self, name: str) -> AbstractContextManager[Hold]:
        """Hold a lock exclusively among all processes; it is released when the holder ends, however it ends.

        A store may need some seconds to detect that a holder has died, and may lose a lock when its server restarts or
        cannot be reached; the hold then reports it. So locks avoid wasted work; correctness rests on ``expected``.

        Raises:
            StateError: Another process holds it; or, on release, it was lost meanwhile.
            StorageError: The store cannot be reached.
        """
        ...

    def close(self) -> None:
        """Close idle connections. Reads under way are answered, and the store can be used again."""
        ...


MOST_PUSH_US = duration_us("2s")
"""How long a push may take."""

ENTITY_FORGOTTEN = -1
"""Value of ``rows_below`` after an entity was forgotten: the states lack rows on purpose, so the next run rebuilds."""


class FillProgress(msgspec.Struct, frozen=True):
    """Progress of a run that folds all events into a generation that is not published yet.

    Attributes:
        generation: The generation it fills.
        reach_us: Events that matter only before this instant were dropped.
        done_us: Every event with ``ingest_time < done_us`` was folded in.
        done_content: Content of these events.
        pending_us: Events up to this instant may have been folded into some states.
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
    """Return the best number of items per read or write."""
    return int(getattr(store, "items_at_once", 8_000))


def what_is_left(store: OnlineStore) -> str:
    """Overwrite deleted data of a store as far as possible; return a sentence on where it may remain.

    Raises:
        StorageError: The store cannot be written.
    """
    return str(getattr(store, "what_is_left", str)())


UNCOUNTED = -1
"""Stands for an unknown count of states or of events in the log."""


STATES_LOST = "states-lost"
"""Code of a view with lost states: it does not answer."""

AHEAD_OF_LOG = "state-ahead-of-log"
"""Code of a view whose states hold events that the log no longer has: its answers are marked as stale."""


class Loss(msgspec.Struct, frozen=True):
    """A difference between the states of a view and its sources and log.

    Attributes:
        code: ``STATES_LOST`` or ``AHEAD_OF_LOG``.
        problem: A description of the difference.
        sound_us: Up to this instant the states are correct, as far as that is known.
    """

    code: str
    problem: str
    sound_us: int = 0


class ViewRecord(msgspec.Struct, frozen=True):
    """The record of a view's states in a store.

    Attributes:
        view: Name of the view.
        fingerprint: The view's fingerprint.
        generation: The valid states; a rebuild fills the next generation beside it.
        watermark_us: Every event with ``ingest_time < watermark_us`` was folded in.
        reach_us: Earliest instant that can be asked about.
        rows_below: Count of the source's events below the watermark when it was set; ``ENTITY_FORGOTTEN`` makes the
            next run rebuild.
        pending_us: A run may have folded events up to this instant into some states; a run that ended has moved the
            watermark there.
        pending_rows: Count of the source's events below that when the run began.
        log_us: Every pushed event with ``ingest_time < log_us`` was folded in; never below the watermark for a source
            that accepts pushes, ``NOTHING_YET`` for others. The counts above leave pushed events out.
        outside: Identity of the rows outside the log, if all of them became known before the watermark; otherwise
            empty.
        content: Content of the source's events below the watermark when they were folded; ``None`` if unknown.
        pending_content: Content of those below ``pending_us``; ``None`` if unknown.
        filling: Progress of a run that folds all events and has not ended; ``None`` if there is none.
        leftover: The replaced generation, whose states may still exist; ``None`` if they are deleted.
        push_us: A push is under way whose events may have become known after this instant; ``None`` if no push is.
        forgets: Grows whenever states are removed because an entity is forgotten: states that were read before are not
            written afterwards.
        states: How many states the valid generation has; ``UNCOUNTED`` if that is not known. Fewer states in the store
            are a loss.
        is_counting: Whether a run may have written states that ``states`` does not include.
        log_sequence: How many events the log had when the states were at its head; ``UNCOUNTED`` if they have since
            been updated, but not to its head.
        log_mark: The log's mark at that event; empty if it is not known.
        lost: Why the states are not correct; ``None`` if they are. While it is set no push is folded; a rebuild clears
            it.
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
        """Return the latest instant, at most the present, that a lookup can answer without missing a push.

        A push that takes longer than ``MOST_PUSH_US`` is considered dead and ignored. Views with a refresh grid do not
        serve pushes under way.
        """
        if self.push_us is None or period_us or not 0 <= now_us - self.push_us < MOST_PUSH_US:
            return now_us
        return self.push_us

    def bound_us(self, period_us: int) -> int:
        """Return the exclusive bound of the ingest times a lookup may use.

        On a grid that is the watermark: a refresh is served whole. A continuous view answers from all events, and its
        answer says up to which instant it is complete.
        """
        return self.watermark_us if period_us else max(self.watermark_us, self.log_us)


RECORD_KEY_BYTES = 8


class PlanOfView(Protocol):
    """The part of a view's plan that a store needs."""

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
    """Return whether a key belongs to an entity's state, and not to a view's record."""
    return len(key) > RECORD_KEY_BYTES


def state_prefix(view: PlanOfView, generation: int) -> bytes:
    """Return the common prefix of the keys of a view's states of one generation."""
    return record_key(view) + generation.to_bytes(4, "big")


def decode_record(view: PlanOfView, stored: bytes | None) -> ViewRecord:
    """Decode a view's record; an empty one if there is none.

    Raises:
        StateError: It is damaged, or belongs to another view.
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
    """Return the records of several views by name, all from one moment."""
    keys = {view.name: (view, record_key(view)) for view in views}
    stored = store.read([key for _, key in keys.values()])
    return {name: decode_record(view, stored.get(key)) for name, (view, key) in keys.items()}


def check_materialized(record: ViewRecord) -> None:
    """Check that a view has usable online state.

    Raises:
        StateError: Nothing is materialized yet, or states were lost.
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
    """Return the error for a view whose states cannot be used, with the command that rebuilds them."""
    return StateError(
        loss.problem,
        where=f"feature view '{view}'",
        hint=f"Run 'featurestore materialize --views {view}' or store.materialize(views=['{view}']): it rebuilds them.",
        code=loss.code,
    )


def count_states(store: OnlineStore, prefix: bytes) -> int | None:
    """Return how many keys begin with a prefix; ``None`` if the store cannot count, or its keys expire.

    Raises:
        StorageError: The store cannot be read.
    """
    count = getattr(store, "count", None)
    return None if count is None else count(prefix)


def why_it_drops_keys(store: OnlineStore) -> str:
    """Return the reason why the store may currently evict keys; empty if it does not, or does not report it.

    Raises:
        StorageError: The store cannot be reached.
    """
    return str(getattr(store, "why_it_drops_keys", str)())


def after(prefix: bytes) -> bytes | None:
    """Return the smallest key after all keys that begin with a prefix; ``None`` if there is none.

    Example:
        >>> after(b"ab")
        b'ac'
    """
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
