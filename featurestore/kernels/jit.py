"""How the hot loops are compiled: in one place, so that every kernel has the same arithmetic.

No fast-math (a sum may not be reassociated), NumPy's error model (no exception inside a loop), the GIL released, and
machine code cached on disk (``kernels.code_cache``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.core import cgutils, config, errors
from numba.extending import intrinsic

from featurestore.kernels.code_cache import CodeCache

_Function = TypeVar("_Function", bound=Callable[..., Any])

_code: Any = cgutils  # it has no types
_numba: Any = numba  # its types know not every option

_IS_INTERPRETED = bool(getattr(config, "DISABLE_JIT", False))
"""Whether NUMBA_DISABLE_JIT is set: then kernels run as plain Python."""


def jit(function: _Function) -> _Function:
    """Compile a function of numbers, arrays and named tuples of them with numba.

    Calls from Python give the same results as the uncompiled function.
    """
    return _compiled(function)


def inner(function: _Function) -> _Function:
    """Compile a function that only compiled code calls.

    It has no entry for calls from Python, which would have to be compiled too; a call from Python ends the process.
    """
    return _compiled(function, no_cpython_wrapper=True)


def inlined(function: _Function) -> _Function:
    """Compile a function as part of each compiled function that calls it.

    For functions that a loop calls with a task: a call would copy a hundred words.
    """
    return _compiled(function, no_cpython_wrapper=True, inline="always")


def _compiled(function: _Function, **options: Any) -> _Function:
    dispatcher: Any = _numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(function)
    if not _IS_INTERPRETED:
        dispatcher._cache = CodeCache(function)
    return cast(_Function, dispatcher)


@intrinsic
def _uncounted(_: Any, array: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        structure = context.make_array(signature.args[0])(context, builder, arguments[0])
        structure.meminfo = _code.get_null_value(structure.meminfo.type)
        return structure._getvalue()

    return array(array), generate


@intrinsic
def _used(_: Any, array: Any) -> Any:
    return types.void(array), lambda context, *_: context.get_dummy_value()


def _same(array: Any) -> Any:
    return array


borrowed: Any = _same if _IS_INTERPRETED else _uncounted
"""Returns an array of which compiled code does not count the references.

Counting is atomic, and done for every slice and every call: over few events it takes longer than the arithmetic. It is
right for arguments, which the caller keeps alive. An array allocated in the same function must be kept alive until the
last use of the borrowed one: by being returned, or by ``keep``.
"""

keep: Any = _same if _IS_INTERPRETED else _used
"""Keeps an array alive up to here."""


class IndirectCall:
    """A call of kernels that share a signature, by their addresses.

    A kernel that calls another by name contains its machine code, so compiling the caller compiles all it could ever
    call. A kernel that is called by address is compiled on its own, and only if a plan needs it.

    Attributes:
        call: ``call(address, (argument, …))``, for use in compiled code; it returns what the kernel returns.
    """

    def __init__(self, signature: Any) -> None:
        """Prepare the call.

        Args:
            signature: Types of the result and of the arguments, as numba writes them.
        """
        self._signature = signature
        self._addresses: dict[Any, int] = {}
        self._interpreted: dict[int, Callable[..., Any]] = {}
        self.call: Callable[[int, tuple[Any, ...]], Any] = self._interpret if _IS_INTERPRETED else _indirect(signature)

    def _interpret(self, address: int, arguments: tuple[Any, ...]) -> Any:
        return self._interpreted[address](*arguments)

    def address_of(self, kernel: Any) -> int:
        """Return the address of a kernel in this process; the first call compiles it or reads it from disk."""
        address = self._addresses.get(kernel)
        if address is None:
            address = id(kernel) if _IS_INTERPRETED else self._compile(kernel)
            self._interpreted[address] = kernel
            self._addresses[kernel] = address
        return address

    def _compile(self, kernel: Any) -> int:
        kernel.compile(self._signature)
        result = kernel.overloads[self._signature.args]
        return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def _indirect(signature: Any) -> Any:
    """Return what generates a call by address of a function with a signature."""

    @intrinsic
    def called(_: Any, address: Any, arguments: Any) -> Any:
        if tuple(arguments) != signature.args:
            message = f"a kernel of {signature} is called with {arguments}"
            raise errors.TypingError(message)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            function = context.call_conv.get_function_type(signature.return_type, signature.args)
            pointer = builder.inttoptr(values[0], function.as_pointer())
            unpacked = _code.unpack_tuple(builder, values[1])
            status, result = context.call_conv.call_function(
                builder, pointer, signature.return_type, signature.args, unpacked
            )
            with _code.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return result

        return signature.return_type(address, arguments), generate

    return called
