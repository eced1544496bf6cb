"""How the hot loops are compiled: one decorator, so that every kernel has the same arithmetic.

No fast-math (a sum may not be reassociated), NumPy's error model (no exception inside a loop), the GIL released, and
machine code cached on disk (``kernels.code_cache``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.core import cgutils
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic, overload

from featurestore.kernels.code_cache import CodeCache

_Function = TypeVar("_Function", bound=Callable[..., Any])

_code: Any = cgutils  # it has no types
_numba: Any = numba  # its types know not every option

KERNELS: list[Any] = []
"""Every function that is compiled, as numba's dispatcher."""


def jit(function: _Function) -> _Function:
    """Compile a function of ints, floats and arrays with numba; called from Python it behaves as it reads."""
    compiled: Any = _numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    if isinstance(compiled, Dispatcher):  # it is not if numba is told to compile nothing
        dispatcher: Any = compiled
        dispatcher._cache = CodeCache(function)
        KERNELS.append(dispatcher)
    return cast(_Function, compiled)


def borrowed(array: Any) -> Any:
    """Return an array of which compiled code does not count the references.

    Counting is atomic, and done for every slice and every call: over few events it takes longer than the arithmetic.
    It is right for arguments, which the caller keeps alive; an array made in the same function must be kept until the
    last use of what was borrowed: by being returned, or by ``keep``.
    """
    return array


def keep(array: Any) -> None:
    """Keep an array alive up to here."""


@intrinsic
def _uncounted(_: Any, array: Any) -> Any:
    def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = context.make_array(signature.args[0])(context, builder, arguments[0])
        found.meminfo = _code.get_null_value(found.meminfo.type)
        return found._getvalue()

    return array(array), made


@intrinsic
def _used(_: Any, array: Any) -> Any:
    return types.void(array), lambda context, *_: context.get_dummy_value()


def _in_compiled_code(function: Callable[..., Any], built_in: Any) -> None:
    """Let compiled code call a function of numba's where it reads as if it called one of Python."""

    # numba compares the parameters of both, annotations included.
    def chosen(array):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, ARG001
        return lambda array: built_in(array)  # noqa: PLW0108

    overload(function)(chosen)


_in_compiled_code(borrowed, _uncounted)
_in_compiled_code(keep, _used)
