"""Entities: the things that features describe, and the typed key columns that identify one of them.

Arguments are kept as written. The compiler checks them, so that all mistakes are reported together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from itertools import zip_longest

from featurestore.core.dtypes import DType
from featurestore.definitions.arguments import explain_arguments

DTypeLike = str | DType
"""A dtype or its name: ``"string"``, ``"decimal(10,2)"``."""


@explain_arguments(
    {
        "join_key": "Write key='driver_id'.",
        "join_keys": "Write key='driver_id', or key=('buyer', 'seller') for several columns.",
        "value_type": "Write dtype='int64'.",
    }
)
@dataclass(frozen=True, eq=False)
class Entity:
    """Something that features describe: a carrier, a user, a pair of airports.

    Keys are compared as typed values: the string "1" is not the integer 1, and a composite key (1, 11) is not (11, 1).

    Attributes:
        name: Name of the entity.
        key: The key column, or several columns for a composite key. Sources, spines and requests use these names.
        dtype: Dtype of the key; for a composite key one for all columns, one per column in the same order, or a
            mapping from column to dtype.
        owner: Person or team responsible for it; changes no value.
        description: Description for people; changes no value.
        tags: Further notes by name; changes no value.

    Example:
        >>> Entity("route", key=("origin", "dest")).columns
        (('origin', 'string'), ('dest', 'string'))
    """

    name: str
    _: KW_ONLY
    key: str | list[str] | tuple[str, ...]
    dtype: DTypeLike | list[DTypeLike] | tuple[DTypeLike, ...] | Mapping[str, DTypeLike] = "string"
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Values of wrong types are kept as well: the compiler reports them.
        object.__setattr__(self, "key", tuple(self.key) if isinstance(self.key, list | tuple) else (self.key,))
        if isinstance(self.dtype, list):
            object.__setattr__(self, "dtype", tuple(self.dtype))

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns in declared order."""
        assert isinstance(self.key, tuple)
        return self.key

    @property
    def columns(self) -> tuple[tuple[str, DTypeLike | None], ...]:
        """Each key column with its dtype as written; ``None`` without one."""
        if isinstance(self.dtype, Mapping):
            return tuple((key, self.dtype.get(key)) for key in self.keys)
        if isinstance(self.dtype, tuple):
            return tuple(zip_longest(self.keys, self.dtype[: len(self.keys)]))
        assert not isinstance(self.dtype, list)
        return tuple((key, self.dtype) for key in self.keys)
