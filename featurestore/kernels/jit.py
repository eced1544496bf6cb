"""How the hot loops are compiled: one decorator, so that every kernel has the same arithmetic.

No fast-math (a sum may not be reassociated), NumPy's error model (no exception inside a loop), the GIL released, and
machine code cached on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def jit(function: _Function) -> _Function:
    """Compile a function of ints, floats and arrays with numba; called from Python it behaves as it reads."""
    return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
