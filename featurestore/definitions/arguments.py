"""Unknown arguments of definitions: the error names a replacement.

The hints also cover arguments that users of Feast may expect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

from featurestore.core.errors import did_you_mean

_Class = TypeVar("_Class", bound=type)


def explain_arguments(hints: Mapping[str, str]) -> Callable[[_Class], _Class]:
    """Return a decorator for a dataclass whose constructor explains unknown arguments.

    Args:
        hints: The replacement, by the name of an unknown argument.
    """

    def decorate(decorated: _Class) -> _Class:
        construct: Any = decorated.__init__  # type: ignore[misc]  # the generated constructor
        known = tuple(field.name for field in fields(decorated) if field.init)

        @wraps(construct)
        def check_and_construct(self: Any, *values: Any, **named: Any) -> None:
            for name in named:
                if name not in known:
                    hint = hints.get(name) or did_you_mean(name, known) or f"Arguments: {', '.join(known)}."
                    raise TypeError(f"{decorated.__name__} has no argument '{name}'. {hint}")
            construct(self, *values, **named)

        decorated.__init__ = check_and_construct  # type: ignore[misc]
        return decorated

    return decorate
