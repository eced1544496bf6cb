"""How the hot loops are compiled: one decorator, so that every kernel has the same arithmetic.

No fast-math (a sum may not be reassociated), NumPy's error model (no exception inside a loop), the GIL released, and
machine code cached on disk. Machine code contains that of the functions it calls, which may lie in other files; so what
is cached holds only as long as no file of kernels has changed: an upgrade never answers with the kernels of before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.core import caching, cgutils
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic, overload

_Function = TypeVar("_Function", bound=Callable[..., Any])

_numba_caching: Any = caching  # which has no types, as what makes code has none
_code: Any = cgutils


def jit(function: _Function) -> _Function:
    """Compile a function of ints, floats and arrays with numba; called from Python it behaves as it reads."""
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    if isinstance(compiled, Dispatcher):  # it is not if numba is told to compile nothing
        _keep_no_longer_than_sources(compiled)
    return cast(_Function, compiled)


def _keep_no_longer_than_sources(compiled: Any) -> None:
    """Let machine code on disk hold only as long as all sources are the same: numba looks at the function's own."""
    cached = compiled._cache
    stamp = (cached._impl.locator.get_source_stamp(), _stamp_of_kernels())
    cached._cache_file = _numba_caching.IndexDataCacheFile(cached._cache_path, cached._impl.filename_base, stamp)


@cache
def _stamp_of_kernels() -> bytes:
    """Return what changes with any file whose functions or numbers are part of machine code made for other files."""
    package = files("featurestore")
    kernels = (file for file in package.joinpath("kernels").iterdir() if file.name.endswith(".py"))
    sources = [*sorted(kernels, key=lambda file: file.name), *map(package.joinpath, ("temporal.py", "statuses.py"))]
    return sha256(b"".join(sha256(file.read_bytes()).digest() for file in sources)).digest()


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
