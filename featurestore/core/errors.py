"""Every error that the library raises on purpose, in one tree.

::

    FeatureStoreError
    ├── DefinitionError (ValueError)       mistakes in definitions, all of one apply together
    ├── InstantError (ValueError)          a naive, unreadable or out-of-range instant or duration
    ├── ConfigError (ValueError)           featurestore.toml or an override
    │   └── UnknownUdfError                a plan needs a function that this process does not have
    ├── SourceError                        the rows of a source cannot be read
    │   ├── SourceMissingError             file, table or column is not there
    │   └── SourceDataError (ValueError)   rows break the source's contract (null keys, naive times, corrupt file)
    ├── SpineError (ValueError)            the spine of a training set
    ├── TrainingSetError                   a training set on disk is missing, damaged, or not what its manifest says
    ├── RequestError (ValueError)          an online request; ``field`` points into it
    │   ├── UnknownServiceError (LookupError)
    │   ├── OutOfReachError                as_of is earlier than the state reaches
    │   └── FingerprintMismatchError       the caller expects another plan than the live one
    ├── ValueOverflowError (OverflowError) an exact integer or decimal sum does not fit its dtype
    ├── StateError                         online state is corrupt, foreign or missing
    ├── RegistryError                      the registry cannot answer
    ├── StorageError (OSError)             a disk or database refused a write or a read
    └── ServerError                        a feature server refuses, fails, or is not a feature server
        └── UnreachableError (ConnectionError)  it cannot be connected to, or does not answer in time

The module imports no other module. A message says where the mistake is, what is wrong and how to mend it; ``code`` is
stable and meant for programs.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar


class FeatureStoreError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        problem: What is wrong, without a final full stop.
        where: The place, for instance ``"source 'flights'"``; may be empty.
        hint: The fix, or what was expected; may be empty.
        code: Stable name of the mistake, in kebab case.
    """

    default_code = "error"

    def __init__(self, problem: str, *, where: str = "", hint: str = "", code: str | None = None) -> None:
        self.problem = problem
        self.where = where
        self.hint = hint
        self.code = code or self.default_code
        super().__init__(render(where=where, problem=problem, hint=hint, code=self.code))


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake of a definition: where, what, the fix, and a stable code."""

    where: str
    problem: str
    hint: str
    code: str

    def __str__(self) -> str:
        return render(where=self.where, problem=self.problem, hint=self.hint, code=self.code)


class DefinitionError(FeatureStoreError, ValueError):
    """Definitions that do not compile.

    Attributes:
        mistakes: Every mistake found, in order of place.
    """

    default_code = "definition"

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        lines = "\n".join(f"  {mistake}" for mistake in self.mistakes)
        super().__init__(f"{count} {'mistake' if count == 1 else 'mistakes'} in the definitions:\n{lines}")


class InstantError(FeatureStoreError, ValueError):
    """An instant or duration that is naive, unreadable or out of range."""

    default_code = "instant"


class ConfigError(FeatureStoreError, ValueError):
    """A configuration file or override that cannot be used."""

    default_code = "config"


class UnknownUdfError(ConfigError):
    """A plan needs a function that this process does not have, or has with another source text.

    This happens while a new version of the code is rolled out.

    Attributes:
        retry_seconds: Seconds after which a request is worth repeating: another process may answer it.
    """

    default_code = "unknown-udf"
    retry_seconds = 5.0


class SourceError(FeatureStoreError):
    """The rows of a source cannot be read."""

    default_code = "source"


class SourceMissingError(SourceError):
    """A file, table or column does not exist."""

    default_code = "source-missing"


class SourceDataError(SourceError, ValueError):
    """Rows that break the contract of their source."""

    default_code = "source-data"


class SpineError(FeatureStoreError, ValueError):
    """A spine that a training set cannot be built on."""

    default_code = "spine"


class TrainingSetError(FeatureStoreError):
    """A training set on disk that is missing, damaged, or not what its manifest says."""

    default_code = "training-set"


class RequestError(FeatureStoreError, ValueError):
    """A caller's mistake in an online request.

    Attributes:
        field: JSON pointer to the place in the request, for instance ``"/entities/3/carrier"``; may be empty.
    """

    default_code = "request"

    def __init__(self, problem: str, *, field: str = "", hint: str = "", code: str | None = None) -> None:
        self.field = field
        super().__init__(problem, where=f"request{field}" if field else "request", hint=hint, code=code)


class UnknownServiceError(RequestError, LookupError):
    """No feature service of that name is applied."""

    default_code = "unknown-service"


class OutOfReachError(RequestError):
    """``as_of`` lies before the earliest instant that the online state covers."""

    default_code = "out-of-reach"


class FingerprintMismatchError(RequestError):
    """The caller expects another plan than the one that is live."""

    default_code = "fingerprint-mismatch"


class ValueOverflowError(FeatureStoreError, OverflowError):
    """An exact integer or decimal sum that does not fit its dtype.

    Attributes:
        field: JSON pointer to the entity whose sum it is; empty if the request named no single entity.
    """

    default_code = "overflow"

    def __init__(
        self, problem: str, *, where: str = "", field: str = "", hint: str = "", code: str | None = None
    ) -> None:
        self.field = field
        super().__init__(problem, where=where, hint=hint, code=code)


class StateError(FeatureStoreError):
    """Online state that is corrupt, foreign or missing."""

    default_code = "state"


class RegistryError(FeatureStoreError):
    """The registry cannot answer."""

    default_code = "registry"


class StorageError(FeatureStoreError, OSError):
    """A disk or database that refused a write or a read.

    Attributes:
        retry_seconds: Seconds after which the call is worth repeating; ``None`` if that is not known.
    """

    default_code = "storage"

    def __init__(
        self,
        problem: str,
        *,
        where: str = "",
        hint: str = "",
        code: str | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        self.retry_seconds = retry_seconds
        super().__init__(problem, where=where, hint=hint, code=code)


class ServerError(FeatureStoreError):
    """A server refused a request, failed, or is not a feature server.

    Attributes:
        status: HTTP status of the response; 0 without a response.
    """

    default_code = "server"

    def __init__(self, problem: str, *, status: int = 0, hint: str = "", code: str | None = None) -> None:
        self.status = status
        super().__init__(problem, where="feature server", hint=hint, code=code)


class UnreachableError(ServerError, ConnectionError):
    """A feature server that cannot be connected to, or does not answer in time."""

    default_code = "unreachable"


def render(*, where: str, problem: str, hint: str, code: str) -> str:
    """Return a message: the parts of an error in their fixed order."""
    head = f"{where}: {problem}" if where else problem
    sentences = head if not hint else f"{head}. {hint}"
    return f"{sentences}   [{code}]"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest known word, or an empty text."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean '{nearest[0]}'?" if nearest else ""


def listing(title: str, names: Iterable[str], *, wrong: str = "") -> str:
    """Return ``"Title: a, b, c. Did you mean 'b'?"``, the hint for an unknown name."""
    known = sorted(names)
    text = f"{title}: {', '.join(known) or 'none'}."
    nearest = did_you_mean(wrong, known) if wrong else ""
    return f"{text} {nearest}".rstrip()


def json_pointer(*parts: object) -> str:
    """Return the JSON pointer (RFC 6901) to a place in a request, for ``field`` of a ``RequestError``.

    Example:
        >>> json_pointer("entities", 3, "a/b")
        '/entities/3/a~1b'
    """
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


_Error = TypeVar("_Error", bound=FeatureStoreError)


@dataclass(frozen=True)
class UnknownName:
    """A name that stands for nothing. Where the name was written decides which error reports it.

    Attributes:
        problem: What does not exist.
        hint: The names that do exist, and the one that was probably meant.
        code: Stable name of the mistake.
    """

    problem: str
    hint: str
    code: str

    def mistake(self, where: str) -> Mistake:
        """Return the mistake of a definition."""
        return Mistake(where, self.problem, self.hint, self.code)

    def in_request(self, field: str = "") -> RequestError:
        """Return the error of a request, with the JSON pointer to the name."""
        cls = UnknownServiceError if self.code == UnknownServiceError.default_code else RequestError
        return cls(self.problem, field=field, hint=self.hint, code=self.code)

    def error(self, cls: Callable[..., _Error], where: str) -> _Error:
        """Return an error of another class, such as ``ConfigError``."""
        return cls(self.problem, where=where, hint=self.hint, code=self.code)


def unknown_service(name: str, known: Iterable[str]) -> UnknownName:
    """Describe a feature service that is not applied.

    Example:
        >>> print(unknown_service("modle", ["model"]).mistake("policies.modle"))
        policies.modle: there is no service 'modle'. Services: model. Did you mean 'model'?   [unknown-service]
    """
    return _unknown("service", name, "Services", known)


def unknown_view(name: str, known: Iterable[str]) -> UnknownName:
    """Describe a feature view that does not exist."""
    return _unknown("view", name, "Views", known)


def unknown_source(name: str, known: Iterable[str]) -> UnknownName:
    """Describe a source that does not exist."""
    return _unknown("source", name, "Sources", known)


def unknown_stream(name: str, known: Iterable[str]) -> UnknownName:
    """Describe a source that does not exist, or does not accept pushed events."""
    problem = f"there is no source '{name}' that accepts pushes"
    return UnknownName(problem, listing("Sources with stream=True", known, wrong=str(name)), "unknown-source")


def unknown_entity(name: str, known: Iterable[str]) -> UnknownName:
    """Describe an entity that does not exist."""
    return _unknown("entity", name, "Entities", known)


def unknown_feature(name: str, known: Iterable[str], *, view: str | None = None) -> UnknownName:
    """Describe a feature that a view does not have, or, without a view, a service."""
    problem = f"there is no feature '{name}'" if view is None else f"view '{view}' has no feature '{name}'"
    return UnknownName(problem, listing("Features", known, wrong=str(name)), "unknown-feature")


def unknown_column(name: str, known: Iterable[str], *, source: str | None = None) -> UnknownName:
    """Describe a column that a source, a file or a table does not have."""
    problem = f"there is no column '{name}'" if source is None else f"column '{name}' is not in source '{source}'"
    return UnknownName(problem, listing("Columns", known, wrong=str(name)), "unknown-column")


def _unknown(kind: str, name: str, title: str, known: Iterable[str]) -> UnknownName:
    return UnknownName(f"there is no {kind} '{name}'", listing(title, known, wrong=str(name)), f"unknown-{kind}")


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted.

    Example:
        >>> repeated(["b", "a", "b"])
        ['b']
    """
    return sorted(name for name, count in Counter(names).items() if count > 1)
