"""User-defined functions over Arrow arrays, for what expressions lack.

A plan holds a function's source text, not the function: whoever evaluates the plan must have imported the module that
defines it. The module knows how to judge whether a function could give the same answer twice, not how to call it.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from featurestore.definitions.entities import DTypeLike
from featurestore.definitions.expr import Expr, to_expr
from featurestore.errors import UnknownUdfError

PURE_MODULES = frozenset(
    {
        "base64",
        "bisect",
        "calendar",
        "cmath",
        "collections",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "hashlib",
        "itertools",
        "json",
        "math",
        "numpy",
        "operator",
        "pyarrow",
        "re",
        "statistics",
        "string",
        "struct",
        "typing",
        "unicodedata",
        "zoneinfo",
        "zlib",
    }
)
"""Modules a user-defined function may use."""

IMPURE_ATTRIBUTES = frozenset({"default_rng", "environ", "now", "random", "today", "urandom", "utcnow"})
"""Attributes of those modules that do not give the same answer twice."""

READING_ATTRIBUTES = frozenset(
    {"OSFile", "fromfile", "input_stream", "load", "loadtxt", "memmap", "memory_map", "open"}
)
"""Attributes of those modules that read other state."""

IMPURE_BUILTINS = frozenset(
    {
        "__import__",
        "breakpoint",
        "compile",
        "eval",
        "exec",
        "globals",
        "hash",
        "id",
        "input",
        "locals",
        "open",
        "print",
        "vars",
    }
)
"""Builtins that read or write other state; ``hash`` of a string differs between processes."""


@dataclass(frozen=True, eq=False)
class Udf:
    """A user-defined function; called with expressions it gives an expression.

    Attributes:
        function: Takes Arrow arrays of equal length, gives one array of that length. The value of a row may depend on
            that row's operands only: rows come in other numbers and orders online than offline.
        name: Name of the function.
        returns: Dtype of the result, as written.
        source: Source text of the function without its decorators; ``""`` if it cannot be read.
    """

    function: Callable[..., Any]
    name: str
    returns: DTypeLike
    source: str

    def __call__(self, *operands: Any) -> Expr:
        """Return the expression that applies the function; what is no expression becomes a literal."""
        params = (("name", self.name), ("returns", str(self.returns)), ("source", self.source))
        return Expr("udf", tuple(map(to_expr, operands)), params)

    def problems(self) -> Iterator[str]:
        """Yield why the function could not be trusted to give the same answer twice."""
        if not self.source:
            yield "its source text cannot be read"
            return
        code = self.function.__code__
        if code.co_freevars:
            yield f"it uses {_names(code.co_freevars)} of the function around it"
        if self.function.__defaults__ or self.function.__kwdefaults__:
            yield "it has default values"
        used = set(_used(code))
        yield from sorted(problem for kind, name in used for problem in self._judge(kind, name))

    def _judge(self, kind: str, name: str) -> Iterator[str]:
        if kind == "attribute" and name in IMPURE_ATTRIBUTES | READING_ATTRIBUTES:
            yield f"it asks for '{name}'"
        elif kind == "import" and name.partition(".")[0] not in PURE_MODULES:
            yield f"it imports '{name}'"
        elif kind == "assignment":
            yield f"it assigns the global '{name}'"
        elif kind == "global":
            yield from self._judge_global(name)

    def _judge_global(self, name: str) -> Iterator[str]:
        missing = object()
        found = self.function.__globals__.get(name, missing)
        if found is missing:
            if name in IMPURE_BUILTINS or not hasattr(builtins, name):
                yield f"it uses '{name}'"
            return
        home = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
        if not isinstance(home, str) or home.partition(".")[0] not in PURE_MODULES:
            yield f"it uses the global '{name}', which its source text does not hold"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


_KINDS = {
    "LOAD_GLOBAL": "global",
    "LOAD_NAME": "global",
    "LOAD_ATTR": "attribute",
    "LOAD_METHOD": "attribute",
    "IMPORT_NAME": "import",
    "IMPORT_FROM": "attribute",
    "STORE_GLOBAL": "assignment",
    "DELETE_GLOBAL": "assignment",
}


def _used(code: CodeType) -> Iterator[tuple[str, str]]:
    """Yield the globals, attributes and modules that code uses, the code of inner functions included."""
    for instruction in dis.get_instructions(code):
        if kind := _KINDS.get(instruction.opname):
            yield kind, str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant)


_REGISTERED: dict[tuple[str, str], Udf] = {}


def udf(*, returns: DTypeLike) -> Callable[[Callable[..., Any]], Udf]:
    """Make a Python function over Arrow arrays usable in expressions.

    The function is called with one ``pyarrow.Array`` per operand and must give an array of the same length. It must be
    a pure function of its operands, row by row; its source text is part of the fingerprint.

    Args:
        returns: Dtype of the result.

    Example::

        @udf(returns="float64")
        def haversine(lat, lon, other_lat, other_lon): ...
    """

    def decorate(function: Callable[..., Any]) -> Udf:
        made = Udf(function, function.__name__, returns, source_text(function))
        _REGISTERED[made.name, made.source] = made
        return made

    return decorate


def source_text(function: Callable[..., Any]) -> str:
    """Return a function's source without decorators and outer indentation; ``""`` if there is none to read."""
    try:
        lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    except (OSError, TypeError):
        return ""
    starts = [i for i, line in enumerate(lines) if line.startswith("def ")]
    return "\n".join(line.rstrip() for line in lines[starts[0] :]).rstrip() if starts else ""


def find_udf(name: str, source: str) -> Udf:
    """Return the function a plan names.

    Args:
        name: Name of the function.
        source: Its source text as the plan holds it.

    Raises:
        UnknownUdfError: No module that was imported defines it, or defines it with another text.
    """
    found = _REGISTERED.get((name, source))
    if found is not None:
        return found
    is_known = any(known == name for known, _ in _REGISTERED)
    problem = "has another text than the plan's" if is_known else "is not defined in this process"
    raise UnknownUdfError(
        f"the function {problem}",
        where=f"udf '{name}'",
        hint="Import the definitions module that the plan was applied from, or apply it again. To change a function "
        "while servers run, give the changed one a new name and keep the old one until no plan uses it.",
    )
