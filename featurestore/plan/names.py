"""Names: which ones are valid, and the column that a feature of a view is known by.

The column of a feature is ``view__feature``, where *view* is the view's name or the alias that a service gives it. Only
this module writes and parses that form.
"""

from __future__ import annotations

import re

AS_OF = "as_of"
"""Column of a spine that holds the instant asked about. Keys, request inputs and features cannot have this name."""

LONGEST_NAME = 200
"""Characters that a name may have: files and folders are named after it."""

SEPARATOR = "__"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_OUTPUT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def is_name(value: object) -> bool:
    """Return whether a value can be either part of ``view__feature``: it must not hold the separator."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME and _NAME.fullmatch(value) is not None


def is_output_name(value: object) -> bool:
    """Return whether a value can be the whole name of a column of an answer."""
    return isinstance(value, str) and _OUTPUT_NAME.fullmatch(value) is not None


def feature_column(view: str, feature: str) -> str:
    """Return the column of a feature.

    Args:
        view: Name of the view, or its alias in the service.
        feature: Name of the feature within the view.

    Example:
        >>> feature_column("spend", "sum_7d")
        'spend__sum_7d'
    """
    return f"{view}{SEPARATOR}{feature}"


def split_column(column: str) -> tuple[str, str]:
    """Return the view (or alias) and the feature that a column is named after, the inverse of ``feature_column``.

    Example:
        >>> split_column("spend__sum_7d")
        ('spend', 'sum_7d')
    """
    view, _, feature = column.partition(SEPARATOR)
    return view, feature


def view_of(column: str) -> str:
    """Return the view (or alias) that a column is named after."""
    return split_column(column)[0]
