"""User-defined functions over Arrow arrays, for what expressions lack.

A plan holds a function's source text, not the function: a process that evaluates the plan must have imported the module
that defines it. The module checks whether a function is pure; it does not call functions.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timezone
from types import CodeType, ModuleType
from typing import Any

from featurestore.core.errors import UnknownUdfError
from featurestore.definitions.entities import DTypeLike
from featurestore.definitions.expr import Expr, to_expr

PURE_MODULES = frozenset(
    {
        "base64",
        "bisect",
        "calendar",
        "cmath",
        "collections",
        "collections.abc",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "hashlib",
        "itertools",
        "json",
        "math",
        "numpy",
        "numpy.char",
        "numpy.fft",
        "numpy.lib",
        "numpy.lib.stride_tricks",
        "numpy.linalg",
        "numpy.ma",
        "numpy.polynomial",
        "numpy.strings",
        "operator",
        "pyarrow",
        "pyarrow.compute",
        "pyarrow.types",
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

_HOMES = frozenset(name.partition(".")[0] for name in PURE_MODULES)
"""Packages that define the contents of these modules, some of them in modules of other names."""

IMPURE_ATTRIBUTES = frozenset(
    {
        "cpu_count",
        "default_memory_pool",
        "default_rng",
        "environ",
        "getcontext",
        "geterr",
        "get_printoptions",
        "io_thread_count",
        "localtime",
        "mktime",
        "now",
        "random",
        "samples",
        "setcontext",
        "set_cpu_count",
        "set_io_thread_count",
        "set_memory_pool",
        "set_printoptions",
        "seterr",
        "seterrcall",
        "today",
        "total_allocated_bytes",
        "tzlocal",
        "urandom",
        "utcnow",
    }
)
"""Attributes of those modules whose results vary, or that change the results of others."""

READING_ATTRIBUTES = frozenset(
    {
        "BufferedInputStream",
        "BufferedOutputStream",
        "CompressedInputStream",
        "CompressedOutputStream",
        "DataSource",
        "FileSystem",
        "LocalFileSystem",
        "OSFile",
        "PythonFile",
        "available_timezones",
        "create_memory_map",
        "csv",
        "ctypeslib",
        "cuda",
        "dataset",
        "dump",
        "f2py",
        "feather",
        "file_digest",
        "flight",
        "from_file",
        "fromfile",
        "fromregex",
        "fs",
        "genfromtxt",
        "gandiva",
        "input_stream",
        "ipc",
        "load",
        "loadtxt",
        "memmap",
        "memory_map",
        "npyio",
        "open",
        "open_memmap",
        "orc",
        "output_stream",
        "parquet",
        "read_csv",
        "read_feather",
        "read_json",
        "read_parquet",
        "read_table",
        "reset_tzpath",
        "save",
        "savetxt",
        "savez",
        "savez_compressed",
        "substrait",
        "tofile",
        "tzfile",
        "write_table",
    }
)
"""Attributes of those modules that read or write other state."""

_BACK_DOORS = frozenset(
    {
        "attrgetter",
        "builtins",
        "codecs",
        "importlib",
        "inspect",
        "io",
        "methodcaller",
        "os",
        "pathlib",
        "shutil",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
    }
)
"""Attributes of those modules that give access to everything else."""

IMPURE_BUILTINS = frozenset(
    {
        "__import__",
        "breakpoint",
        "compile",
        "delattr",
        "eval",
        "exec",
        "exit",
        "getattr",
        "globals",
        "hash",
        "help",
        "id",
        "input",
        "locals",
        "open",
        "print",
        "quit",
        "setattr",
        "vars",
    }
)
"""Builtins that read or write other state; ``hash`` of a string differs between processes."""


@dataclass(frozen=True, eq=False)
class Udf:
    """A user-defined function; called with expressions, it returns an expression.

    Attributes:
        function: Accepts Arrow arrays of equal length and returns one array of that length. The value of a row may
            depend on that row's operands only: rows come in other numbers and orders online than offline.
        name: Name of the function.
        returns: Dtype of the result, as written.
        source: Source text of the function without its decorators; ``""`` if it cannot be read.
    """

    function: Callable[..., Any]
    name: str
    returns: DTypeLike
    source: str

    def __call__(self, *operands: Any) -> Expr:
        """Return the expression that applies the function; other operands than expressions become literals."""
        params = (("name", self.name), ("returns", str(self.returns)), ("source", self.source))
        return Expr("udf", tuple(map(to_expr, operands)), params)

    def problems(self) -> Iterator[str]:
        """Yield the reasons why the function might not give the same result twice."""
        if not self.source:
            yield "its source text cannot be read"
            return
        if not inspect.isfunction(self.function):
            yield "it is not a plain function"
            return
        code = self.function.__code__
        if code.co_freevars:
            yield f"it uses {_names(code.co_freevars)} of the function around it"
        if self.function.__defaults__ or self.function.__kwdefaults__:
            yield "it has default values"
        used = set(_used(code))
        problems = {problem for kind, name in used for problem in self._problems_of(kind, name)}
        yield from sorted(problems | set(clock_problems(self.source)))

    def _problems_of(self, kind: str, name: str) -> Iterator[str]:
        is_dunder = name.startswith("__") and name.endswith("__")
        if kind == "attribute" and (is_dunder or name in IMPURE_ATTRIBUTES | READING_ATTRIBUTES | _BACK_DOORS):
            yield f"it uses '{name}'"
        elif kind == "import" and name not in PURE_MODULES:
            yield f"it imports '{name}'"
        elif kind == "assignment":
            yield f"it assigns the global '{name}'"
        elif kind == "global":
            yield from self._problems_of_global(name)

    def _problems_of_global(self, name: str) -> Iterator[str]:
        missing = object()
        value = self.function.__globals__.get(name, missing)
        if value is missing:
            if name in IMPURE_BUILTINS or not hasattr(builtins, name):
                yield f"it uses '{name}'"
            return
        is_module = isinstance(value, ModuleType)
        if not (value.__name__ in PURE_MODULES if is_module else _is_library_code(name, value)):
            yield f"it uses the global '{name}', which its source text does not hold"


def _is_library_code(global_name: str, value: Any) -> bool:
    """Return whether a global is a function, class or constant of the pure modules.

    Other instances of their classes hold values that a function's source text does not show.
    """
    if isinstance(value, int | float | str | bytes | timezone):
        return any(getattr(sys.modules.get(module), global_name, None) is value for module in PURE_MODULES)
    home = getattr(value, "__module__", None)
    if isinstance(value, type) or inspect.isroutine(value):
        name = getattr(value, "__name__", "")
        is_known = isinstance(home, str) and home.partition(".")[0] in _HOMES and not _is_reading(home)
        return is_known and name not in IMPURE_ATTRIBUTES | READING_ATTRIBUTES | _BACK_DOORS
    return type(value).__name__ == "ufunc" and type(value).__module__ == "numpy"


def _is_reading(module: str) -> bool:
    return bool(set(module.split(".")) & (IMPURE_ATTRIBUTES | READING_ATTRIBUTES))


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


_NAIVE_MAKERS = frozenset(
    {"combine", "datetime", "fromisocalendar", "fromisoformat", "fromordinal", "strptime", "utcfromtimestamp"}
)
"""Names of functions that make datetimes without a zone."""

_LOCAL = "localtime"


def clock_problems(source: str) -> Iterator[str]:
    """Yield the places where a function reads the clock or the machine's time zone.

    ``timestamp()`` and ``astimezone()`` interpret a datetime without a zone as the machine's local time. Datetimes of
    operands have a zone; so these methods are refused only where the function makes datetimes itself, unless the call
    shows that the datetime has a zone.

    Args:
        source: Source text of the function.
    """
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    texts = {
        node.value.strip().lower() for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    zoned = {id(call) for call in calls if _has_zone(call)}
    replaced = (call.func for call in calls if id(call) in zoned and _called(call) == "replace")
    zoned |= {id(function.value) for function in replaced if isinstance(function, ast.Attribute)}
    makes_naive = any(_called(call) in _NAIVE_MAKERS and id(call) not in zoned for call in calls) or _drops_zone(calls)
    zoned_names = _zoned_names(nodes)
    for call in calls:
        name = _called(call)
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        is_zoned = receiver is not None and (
            _has_zone(receiver) or (isinstance(receiver, ast.Name) and receiver.id in zoned_names)
        )
        if name == "fromtimestamp" and len(call.args) < 2 and not _has_zone(call):
            yield "fromtimestamp() without tz= reads the machine's time zone"
        elif name == "astimezone" and not call.args and not call.keywords:
            yield "astimezone() without a zone reads the machine's time zone"
        elif name in ("timestamp", "astimezone") and makes_naive and receiver is not None and not is_zoned:
            yield f"{name}() of a datetime without a zone reads the machine's; write .replace(tzinfo=UTC) first"
        elif name == "strftime" and any("%s" in text for text in texts):
            yield "strftime('%s') reads the machine's time zone"
    if _LOCAL in texts:
        yield "the zone 'localtime' is the machine's"
    if {"now", "today"} & texts and ("datetime64" in source or "M8" in source):
        yield "datetime64 reads the clock for 'now' and 'today'"


def _drops_zone(calls: list[ast.Call]) -> bool:
    """Return whether a call removes a zone: ``.replace(tzinfo=None)``."""
    keywords = (keyword for call in calls for keyword in call.keywords)
    return any(
        keyword.arg == "tzinfo" and isinstance(keyword.value, ast.Constant) and keyword.value.value is None
        for keyword in keywords
    )


def _zoned_names(nodes: list[ast.AST]) -> set[str]:
    """Return the variables to which only datetimes with a zone are assigned."""
    assigned: dict[str, list[bool]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, []).append(_has_zone(node.value))
    return {name for name, values in assigned.items() if all(values)}


def _called(call: ast.Call) -> str:
    """Return the last part of the name of the called function."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _has_zone(node: ast.expr) -> bool:
    """Return whether an expression is certainly a datetime with a zone."""
    if not isinstance(node, ast.Call):
        return False
    zones = [keyword for keyword in node.keywords if keyword.arg in ("tz", "tzinfo")]
    if any(not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None) for keyword in zones):
        return True
    # By place, the zone is the first argument of astimezone, the second of fromtimestamp, and the eighth of datetime.
    return len(node.args) >= {"astimezone": 1, "fromtimestamp": 2, "datetime": 8}.get(_called(node), 1_000)


_REGISTERED: dict[tuple[str, str], Udf] = {}


def udf(*, returns: DTypeLike) -> Callable[[Callable[..., Any]], Udf]:
    """Make a Python function over Arrow arrays usable in expressions.

    The function is called with one ``pyarrow.Array`` per operand and must return an array of the same length. It must
    be a pure function of its operands, row by row: its text is searched for uses of files, clocks, the machine's time
    zone and random numbers, and it is tried on parts of blocks when it is compiled and with its first rows. Its source
    text is part of the fingerprint.

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
    """Return a function's source without decorators and outer indentation; ``""`` if it cannot be read."""
    try:
        lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    except (OSError, TypeError):
        return ""
    starts = [i for i, line in enumerate(lines) if line.startswith("def ")]
    return "\n".join(line.rstrip() for line in lines[starts[0] :]).rstrip() if starts else ""


def find_udf(name: str, source: str) -> Udf:
    """Return the function that a plan names.

    Args:
        name: Name of the function.
        source: Its source text as the plan holds it.

    Raises:
        UnknownUdfError: No imported module defines it, or one defines it with another text.
    """
    registered = _REGISTERED.get((name, source))
    if registered is not None:
        return registered
    is_known = any(known == name for known, _ in _REGISTERED)
    problem = "has another text than the plan's" if is_known else "is not defined in this process"
    raise UnknownUdfError(
        f"the function {problem}",
        where=f"udf '{name}'",
        hint="Import the definitions module that the plan was applied from, or apply it again. To change a function "
        "while servers run, give the changed one a new name and keep the old one until no plan uses it.",
    )
