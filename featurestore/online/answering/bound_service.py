"""Evaluation of stored states: one compiled call for all views and entities of a batch.

The programs of a service's views are concatenated once; a batch then costs one pass over its states. The loops that
fold events are those of ``kernels.core``, the same that build training sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featurestore.core.columns import Ints
from featurestore.core.statuses import ERROR_CODE, OVERFLOWED
from featurestore.kernels.evaluate import Picked, RowReader, bind
from featurestore.kernels.ways import BoundKernels, bind_kernels
from featurestore.online.state.codec import Dictionaries, StateCodec, joined_states
from featurestore.online.state.packing import SOUND, VIEW_COLUMNS, answer_views
from featurestore.plan.model import ViewPlan

_DEDUPLICATE_FROM = 64
"""From so many entities on, entities that occur more than once are evaluated once."""


@dataclass(frozen=True)
class Overflow:
    """A feature that has no value for some entities, because an exact sum does not fit its dtype.

    Attributes:
        view: Position of its view.
        feature: Its position among the view's features.
        entities: Positions of the entities, in order.
    """

    view: int
    feature: int
    entities: tuple[int, ...]


class Answers(NamedTuple):
    """Answers of all views of a service.

    Attributes:
        rows: Per entity the Python values of the features picked; ``None`` is null.
        statuses: ``Status`` codes, one row per feature picked; ``ERROR_CODE`` where a sum does not fit.
        newest: Per view the event time of the newest event each entity's answer saw, ``NO_EVENT`` if none.
        overflows: All features, picked or not, with a sum that does not fit.
    """

    rows: list[list[Any]]
    statuses: npt.NDArray[np.uint8]
    newest: list[list[int]]
    overflows: tuple[Overflow, ...] = ()


class BoundService:
    """The views of a service with their kernels, evaluated in one call."""

    def __init__(self, views: Sequence[ViewPlan], picks: Sequence[int] | None = None) -> None:
        """Bind the views.

        Args:
            views: The views, in the order of the states that ``answer`` takes; a view may occur several times.
            picks: The features of a row, in its order, as positions among the features of all views in plan order;
                ``None`` picks all in that order.
        """
        self._bound = [bind(view) for view in views]
        self._codecs = [StateCodec(view) for view in views]
        self._has_dictionaries = any(codec.has_dictionaries for codec in self._codecs)
        self._no_dictionaries: list[Callable[[int, int], Sequence[Any]]] = [_no_dictionary] * len(views)
        self._programs = programs = [bound.program for bound in self._bound]
        self._windows = _concatenate([program.windows for program in programs], 2)
        self._groups = _concatenate([program.groups for program in programs], 7)
        self._features = _concatenate([program.features for program in programs], 6)
        layouts = [(*codec.layout, *bound.policy) for codec, bound in zip(self._codecs, self._bound, strict=True)]
        sizes = [
            (len(p.windows), len(p.groups), len(p.features), p.row_count, len(view.features))
            for p, view in zip(programs, views, strict=True)
        ]
        self._views = np.zeros((len(views) + 1, VIEW_COLUMNS), dtype=np.int64)
        self._views[:-1, :6] = np.array(layouts, dtype=np.int64).reshape(-1, 6)
        self._views[1:, 6:] = np.cumsum(np.array(sizes, dtype=np.int64).reshape(-1, 5), axis=0)
        self._parts = [
            (slice(low[0], high[0]), slice(low[1], high[1])) for low, high in pairwise(self._views[:, -2:].tolist())
        ]
        self._row_count, self._feature_count = self._views[-1, -2:].tolist()
        every = [
            Picked(reader, number, features.start + i, rows.start)
            for number, (bound, (rows, features)) in enumerate(zip(self._bound, self._parts, strict=True))
            for i, reader in enumerate(bound.readers)
        ]
        self._reader = RowReader(every if picks is None else [every[position] for position in picks])

    @cached_property
    def _kernels(self) -> BoundKernels:
        """Addresses of the kernels of all views, compiled when the first states are evaluated."""
        kernels = [bind_kernels(program, has_one_query=True) for program in self._programs]
        return BoundKernels(
            folds=_concatenate([view.folds for view in kernels], 3),
            finishes=np.concatenate([np.zeros(0, dtype=np.int64), *[view.finishes for view in kernels]]),
        )

    def answer(
        self, stored: Sequence[Sequence[bytes | None]], count: int, *, as_of_us: int, bounds_us: Ints
    ) -> Answers:
        """Evaluate stored states.

        Args:
            stored: Per view the state of each entity, ``None`` where it has none.
            count: Count of entities.
            as_of_us: Instant of the answer.
            bounds_us: Per view the exclusive bound of the ingest times that may be used.

        Raises:
            StateError: A state is damaged or foreign.
        """
        if count >= _DEDUPLICATE_FROM and (duplicates := _find_duplicates(stored)) is not None:
            firsts, numbers = duplicates
            distinct = [[states[entity] for entity in firsts] for states in stored]
            return _repeat(self.answer(distinct, len(firsts), as_of_us=as_of_us, bounds_us=bounds_us), numbers)
        words = np.zeros((self._row_count, count), dtype=np.int64)
        statuses = np.empty((self._feature_count, count), dtype=np.uint8)
        newest = np.empty((len(self._bound), count), dtype=np.int64)
        verified = [codec.checked(states) for codec, states in zip(self._codecs, stored, strict=True)]
        joined, starts = joined_states([state for states in verified for state in states])
        dictionary_bounds = np.empty((len(self._bound) * count, 2), dtype=np.int64)
        kernels = self._kernels
        problem, number, overflowed = answer_views(
            np.frombuffer(joined, dtype=np.int64),
            starts,
            self._views,
            self._windows,
            self._groups,
            self._features,
            kernels.folds,
            kernels.finishes,
            as_of_us,
            bounds_us,
            words,
            statuses,
            newest,
            dictionary_bounds,
        )
        if problem != SOUND:
            raise self._codecs[number].error(problem)
        overflows = self._overflows(statuses) if overflowed else ()
        rows, codes = self._reader.read(words, statuses, self._dictionaries(joined, dictionary_bounds, count))
        return Answers(rows, codes, newest.tolist(), overflows)

    def _dictionaries(self, joined: bytes, bounds: Ints, count: int) -> list[Callable[[int, int], Sequence[Any]]]:
        """Return per view a function that returns the dictionary of an input and entity."""
        if not self._has_dictionaries:
            return self._no_dictionaries
        functions = []
        for number, codec in enumerate(self._codecs):
            dictionaries: list[Dictionaries] = []
            if codec.has_dictionaries:
                of_view = bounds[number * count : (number + 1) * count].tolist()
                dictionaries = [codec.dictionaries(joined, begin, end) for begin, end in of_view]
            functions.append(_dictionary_of(dictionaries))
        return functions

    def _overflows(self, statuses: npt.NDArray[np.uint8]) -> tuple[Overflow, ...]:
        """Return the features whose sums do not fit, and set their status to ``ERROR``."""
        overflows = []
        for view, (_, features) in enumerate(self._parts):
            part = statuses[features]
            for feature in (part == OVERFLOWED).any(axis=1).nonzero()[0].tolist():
                entities = tuple((part[feature] == OVERFLOWED).nonzero()[0].tolist())
                overflows.append(Overflow(view, feature, entities))
        statuses[statuses == OVERFLOWED] = ERROR_CODE
        return tuple(overflows)


def _find_duplicates(stored: Sequence[Sequence[bytes | None]]) -> tuple[list[int], list[int]] | None:
    """Find entities that occur more than once: their states are the same objects.

    Returns:
        The positions of the distinct entities, and per entity its number among them; ``None`` if all are distinct.
    """
    distinct: dict[tuple[int, ...], int] = {}
    numbers = [distinct.setdefault(tuple(map(id, states)), len(distinct)) for states in zip(*stored, strict=True)]
    if len(distinct) == len(numbers):
        return None
    firsts: dict[int, int] = {}
    for entity, number in enumerate(numbers):
        firsts.setdefault(number, entity)
    return list(firsts.values()), numbers


def _repeat(answers: Answers, numbers: Sequence[int]) -> Answers:
    """Return the answers of distinct entities for all entities, by the number of each among the distinct ones."""
    entities: dict[int, list[int]] = {}
    for entity, number in enumerate(numbers):
        entities.setdefault(number, []).append(entity)
    return Answers(
        rows=[list(answers.rows[number]) for number in numbers],
        statuses=answers.statuses[:, numbers],
        newest=[[newest[number] for number in numbers] for newest in answers.newest],
        overflows=tuple(
            replace(
                overflow, entities=tuple(sorted(entity for number in overflow.entities for entity in entities[number]))
            )
            for overflow in answers.overflows
        ),
    )


def _dictionary_of(dictionaries: Sequence[Dictionaries]) -> Callable[[int, int], Sequence[Any]]:
    """Return a function that returns the dictionary of an input and entity; an empty one where words are values."""
    if not dictionaries:
        return _no_dictionary
    return lambda source, entity: dictionaries[entity][source] or ()


def _no_dictionary(_: int, __: int) -> Sequence[Any]:
    return ()


def _concatenate(tables: Sequence[Ints], width: int) -> Ints:
    """Return the rows of several tables as one table."""
    return np.concatenate([np.zeros((0, width), dtype=np.int64), *tables])
