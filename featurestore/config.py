"""Configuration: ``featurestore.toml``, with overrides from the environment.

An environment variable ``FEATURESTORE_<KEY>`` overrides a key, ``FEATURESTORE_<TABLE>__<KEY>`` one inside a table
(``FEATURESTORE_SERVER__PORT=8080``). Relative paths, also those inside SQLite URLs, count from the folder of the
file. What is written wrongly is an error that names the file or variable and the key. Only the variables that
Kubernetes sets for Services of similar names are ignored.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from featurestore.core.errors import ConfigError, InstantError, listing
from featurestore.core.temporal import duration_us, moment_us
from featurestore.core.urls import HIDDEN, shown
from featurestore.storage.files import local_path, local_target

FILE_NAME = "featurestore.toml"
PREFIX = "FEATURESTORE_"
CONFIG_VARIABLE = "FEATURESTORE_CONFIG"
"""Names the file itself, where a program takes no path."""

_SERVICE_LINK = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:"
    r"SERVICE_HOST=.*"
    r"|SERVICE_PORT(?:_\w+)?=\d+"
    r"|PORT=(?:tcp|udp|sctp)://.*"
    r"|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?=.*)"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with ``featurestore``.

Source:
    Kubernetes, "Discovering services": environment variables; ``enableServiceLinks`` is true by default.
"""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SQLITE = "sqlite:///"


def read_bytes(value: Any) -> Any:
    """Read an amount of memory: ``"1GB"`` (10^9), ``"512MiB"`` (2^20), or whole bytes.

    Raises:
        ValueError: The text is no amount.

    Example:
        >>> read_bytes("1.5GB")
        1500000000
    """
    if not isinstance(value, str):
        return value
    number = value.strip().rstrip("BbKkMmGgTtIi ")
    unit = value.strip()[len(number) :].strip().upper()
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"'{value}' is no amount of memory; write for instance '1GB' or '512MiB'") from None


Bytes = Annotated[int, BeforeValidator(read_bytes)]


def _checked(text: str, read: Callable[[str], object]) -> str:
    """Return a text that can be read; pydantic takes nothing but a ``ValueError`` for a wrong value."""
    try:
        read(text)
    except InstantError as error:
        raise ValueError(f"{error.problem}. {error.hint}".rstrip(". ")) from None
    return text


def _length(text: str) -> str:
    if duration_us(_checked(text, duration_us)) == 0:
        raise ValueError("a length of zero: write for instance '1h'")
    return text


Duration = Annotated[str, AfterValidator(lambda text: _checked(text, duration_us))]
"""How long: ``"90m"``, ``"1h30m"``; zero is allowed."""

Length = Annotated[str, AfterValidator(_length)]
"""How long or how often; longer than nothing."""

NEVER = "never"
"""What turns something off that is done again and again."""


def _often(text: str, read: Callable[[str], str]) -> str:
    try:
        return text if text == NEVER else read(text)
    except ValueError as error:
        raise ValueError(f"{error}, or '{NEVER}'") from None


Schedule = Annotated[str, AfterValidator(lambda text: _often(text, _length))]
"""How often, or ``"never"``."""

Reminder = Annotated[str, AfterValidator(lambda text: _often(text, lambda given: _checked(given, duration_us)))]
"""How long until something is said again, or ``"never"``; so is zero."""


def _local(path: Path) -> Path:
    local_path(path)
    return path


def _local_if_file(url: str) -> str:
    """Refuse the URL of a SQLite database whose file lies elsewhere."""
    scheme, mark, path = url.partition(":///")
    if mark and scheme.partition("+")[0] == "sqlite" and not path.startswith("file:"):
        local_path(path)
    return url


LocalPath = Annotated[Path, AfterValidator(_local)]
"""A path on this machine; the address of an object store is refused."""

DatabaseUrl = Annotated[str, AfterValidator(_local_if_file)]
"""URL of a database or an online store."""

Moment = Annotated[str, AfterValidator(lambda text: _checked(text, lambda given: moment_us(given, now_us=0)))]
"""How long back, or an instant."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def overridden(self, own: Self) -> Self:
        """Return what another table says, where it says something, and what this one says elsewhere; so inside, too."""
        said = {name: getattr(own, name) for name in own.model_fields_set}
        tables = {name: table for name, table in said.items() if isinstance(table, _Table)}
        inner = {name: getattr(self, name).overridden(table) for name, table in tables.items()}
        return self.model_copy(update=said | inner)


class ServingLogConfig(_Table):
    """What is kept of what was served.

    Attributes:
        enabled: Whether answers are logged.
        flush_seconds: Answers reach the disk at most so much later: what a crash can lose.
        share: Which share of all entities is logged, chosen by a hash of their keys.
        retention_days: How many days rows are kept; ``None`` keeps them for ever.
    """

    enabled: bool = True
    flush_seconds: float = Field(default=1.0, gt=0)
    share: float = Field(default=1.0, gt=0, le=1)
    retention_days: int | None = Field(default=None, ge=1)


class ServerConfig(_Table):
    """Where the server listens and what it takes.

    Attributes:
        host: Address it listens on.
        port: Port it listens on; 0 takes a free one.
        max_body: Largest request, in bytes.
        max_push: Largest request that pushes events, in bytes; unpacked its events may take four times that.
        max_events: Most events of one request.
        max_entities: Most entities of one request.
        shutdown_seconds: How long requests under way may take to finish when the server is stopped.
        auth: ``"keys"``: every request needs an API key. ``"none"``: anybody who reaches the server may do anything.
        workers: How many processes serve.
        on_fingerprint_mismatch: What becomes of a caller whose ``expected_fingerprint`` is not the live plan's:
            ``"refuse"`` answers 409, ``"flag"`` answers and says so in the header ``X-Fingerprint-Mismatch``.
        max_requests: Most requests under way in one process; further ones are answered 503.
        deadline_seconds: How long a request may take, except to materialize; then it is answered 504. By then its body
            must have come.
        max_head: Largest request line and headers, in bytes.
        head_seconds: How long the head of a request may take to come: counted from the opening of a connection, and on
            one that was used before from the head's first byte. It is never longer than ``deadline_seconds``.
        keep_alive_seconds: How long a connection stays open between two requests. A load balancer must give idle
            connections up before the server does, and most do so after 60 s.
        max_connections: Most connections of one process. It is lowered where the process may open few files.
        drain_seconds: How long the server goes on answering after SIGTERM, while ``/readyz`` says 503 and every answer
            closes its connection: the time load balancers need to notice. ``None``: 5 s, and 0 on a loopback address.
        max_columns: Most columns of one push, those of all its events together.
        max_answer: Largest answer, in bytes, before it is compressed.
        compress_from: Answers of so many bytes or more are compressed for callers that accept it.
        metrics: Whether ``/metrics`` is served; ``None``: if ``prometheus-client`` is installed.
        traces: Whether requests are OpenTelemetry spans.
        log_requests: Whether every request is a line of JSON on the standard output.
        log_entity_keys: Whether such a line has entity keys as they are; else it has hashes of them.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    max_body: Bytes = Field(default=1_000_000, gt=0)
    max_push: Bytes = Field(default=16_000_000, gt=0)
    max_events: int = Field(default=100_000, gt=0)
    max_entities: int = Field(default=1_000, gt=0)
    shutdown_seconds: int = Field(default=10, ge=0)
    auth: Literal["keys", "none"] = "keys"
    workers: int = Field(default=1, ge=1)
    on_fingerprint_mismatch: Literal["refuse", "flag"] = "refuse"
    max_requests: int = Field(default=256, gt=0)
    deadline_seconds: float = Field(default=30.0, gt=0)
    max_head: Bytes = Field(default=64_000, ge=1_000)
    head_seconds: float = Field(default=10.0, gt=0)
    keep_alive_seconds: float = Field(default=75.0, gt=0)
    max_connections: int = Field(default=10_000, gt=0)
    drain_seconds: float | None = Field(default=None, ge=0)
    max_columns: int = Field(default=2_000, gt=0)
    max_answer: Bytes = Field(default=64_000_000, gt=0)
    compress_from: Bytes = Field(default=32_000, gt=0)
    metrics: bool | None = None
    traces: bool = False
    log_requests: bool = False
    log_entity_keys: bool = False


class ToleranceConfig(_Table):
    """How far the numbers of a feature may lie apart; any of the three suffices.

    Attributes:
        absolute: Largest difference.
        relative: Largest difference over the reference.
        ulps: Largest count of floats between the two.
    """

    absolute: float = Field(default=0.0, ge=0)
    relative: float = Field(default=0.0, ge=0)
    ulps: int = Field(default=0, ge=0)


class DriftPolicyConfig(_Table):
    """What drift of a service is, as ``skew.drift.policy.DriftPolicy`` says it.

    What is ``None`` is the library's.

    Attributes:
        significance: Probability of calling chance drift.
        correction: How p-values are corrected for their number.
        least_effects: What is judged by chance, and the least distance that matters, by measure.
        fixed: Names of fixed thresholds; if there are any, they alone decide.
        allowed_features: How many features may drift.
        least_rows: Rows that both samples must have.
    """

    significance: float | None = Field(default=None, gt=0, lt=1)
    correction: Literal["holm", "benjamini-hochberg", "none"] | None = None
    least_effects: dict[str, Annotated[float, Field(ge=0)]] | None = None
    fixed: tuple[str, ...] | None = None
    allowed_features: int | None = Field(default=None, ge=0)
    least_rows: int | None = Field(default=None, ge=1)


class PolicyConfig(_Table):
    """What audits of a service allow, as ``skew.policy.Policy`` says it.

    What the configuration does not say of a service is what its definition says (``FeatureService(policy=…)``), else
    what the configuration says of ``default``.

    Attributes:
        allowed_share: Share of a feature's values that may differ.
        warn_share: Share from which on allowed differences are a warning.
        least_rows: Rows that must have been compared.
        allow_skipped: Whether rows that could not be compared may pass unseen.
        tolerances: How far numbers may lie apart, by feature; ``"*"`` stands for all others.
        causes: Share of all values that may differ for a cause, by its name.
        max_audit_age: How long ago the newest answers that an audit compared may have been served, for the gate.
        max_state_age: Up to how long ago online state of views with ``continuous()`` must be complete, for the gate;
            views with ``every(…)`` promise it themselves.
        drift: What drift of the service is.
    """

    allowed_share: float = Field(default=0.0, ge=0, le=1)
    warn_share: float | None = Field(default=None, ge=0, le=1)
    least_rows: int = Field(default=1, ge=0)
    allow_skipped: bool = False
    tolerances: dict[str, ToleranceConfig] = {}
    causes: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    max_audit_age: Length = "7d"
    max_state_age: Length = "1d"
    drift: DriftPolicyConfig = DriftPolicyConfig()


DEFAULT_POLICY = "default"
"""What stands for all services in the table of policies."""


def read_policy(written: Mapping[str, Any], where: str) -> PolicyConfig:
    """Read a policy that is not written in a file, for instance in a definition.

    Raises:
        ConfigError: A key or value is wrong.
    """
    try:
        return PolicyConfig.model_validate(dict(written))
    except ValidationError as error:
        raise _wrong(error, PolicyConfig, where) from None


class ScheduleConfig(_Table):
    """What ``featurestore run`` keeps going beside what views declare.

    Attributes:
        refresh: How often views are refreshed that declare ``continuous()``; ``"never"`` refreshes none of them.
        compact: Pushed events that are older move to files, as often; ``"never"`` moves none.
        gc: How often online state is removed that no plan needs; ``"never"`` removes none.
        keep_plans: How many plans of each service are kept to roll back to when online state is removed, and are kept
            complete by pushes; at least one.
        jitter: Jobs begin up to so much after their time, each always by the same, so that not all begin at once.
    """

    refresh: Schedule = "1m"
    compact: Schedule | None = "1d"
    gc: Schedule = "1d"
    keep_plans: int = Field(default=1, ge=1)
    jitter: Duration = "0s"

    @field_validator("compact")
    @classmethod
    def _is_text(cls, value: str | None) -> str:
        """Take a null, which JSON in a variable can say, for ``"never"``."""
        return NEVER if value is None else value


class _TimedConfig(_Table):
    """Something about a service that is done again and again."""

    service: str
    every: Length | None = None
    cron: str | None = None
    since: Moment = "24h"

    @model_validator(mode="after")
    def _has_one_trigger(self) -> Self:
        if (self.every is None) == (self.cron is None):
            raise ValueError("say either every or cron")
        return self


class AuditJobConfig(_TimedConfig):
    """One audit that is done again and again.

    Attributes:
        service: Name of the service.
        every: How often: ``"1h"``, counted from the Unix epoch.
        cron: When, as crontab says it (UTC), in place of ``every``.
        since: How long back it looks, or the instant it looks back to.
        sample: Share of the entities to look at; all if ``None``.
    """

    sample: float | None = Field(default=None, gt=0, le=1)


class DriftJobConfig(_TimedConfig):
    """One comparison of distributions that is done again and again.

    Attributes:
        service: Name of the service.
        reference: What is compared with: a training set, its manifest, or another period (``"14d..7d"``).
        every: How often: ``"1d"``, counted from the Unix epoch.
        cron: When, as crontab says it (UTC), in place of ``every``.
        since: How long back it looks, or the instant it looks back to.
        recompute: Whether to recompute what was served, and tell skew from another population.
    """

    reference: str = Field(min_length=1)
    recompute: bool = False


class SmtpConfig(_Table):
    """How alerts are mailed.

    Attributes:
        host: Mail server.
        port: Its port; 465 with ``tls`` and 25 without if left out.
        sender: Address alerts come from.
        to: Addresses they go to.
        tls: Whether the connection is encrypted from its first byte on (``smtps``).
        starttls: Whether it is encrypted after it was opened in the clear.
        user: Whom to log in as; empty for nobody.
        password_env: Environment variable of the password.
    """

    host: str
    port: int | None = Field(default=None, gt=0, le=65_535)
    sender: str
    to: list[str] = Field(min_length=1)
    tls: bool = False
    starttls: bool = False
    user: str = ""
    password_env: str = "ALERT_SMTP_PASSWORD"

    @model_validator(mode="after")
    def _is_encrypted_once(self) -> SmtpConfig:
        if self.tls and self.starttls:
            raise ValueError("say tls (encrypted from the start) or starttls, not both")
        return self


REPORT_PARTS = ("kind", "service", "id")
"""What the address of a report may be made of."""


class AlertsConfig(_Table):
    """Who is told about audits that do not pass and jobs that fail, and when that is over.

    Attributes:
        webhook: URL that messages are posted to.
        webhook_secret_env: Environment variable of the secret that signs them.
        smtp: How they are mailed.
        command: Program and arguments; the message is on its standard input.
        report_url: Where a person finds the report; ``{service}`` stands for the service, ``{id}`` for the report's
            number in the registry, ``{kind}`` for ``audit`` or ``drift``.
        remind: What goes on is told again after so long; ``"never"`` or ``"0s"`` tells it once.
        one_shot: Whether ``featurestore audit`` tells what it finds without being asked to (``--alert``).
    """

    webhook: str | None = None
    webhook_secret_env: str = "ALERT_WEBHOOK_SECRET"
    smtp: SmtpConfig | None = None
    command: list[str] = []
    report_url: str = ""
    remind: Reminder = "1d"
    one_shot: bool = False

    @field_validator("webhook")
    @classmethod
    def _is_a_web_address(cls, value: str | None) -> str | None:
        try:
            address = urlsplit(value or "https://host")
        except ValueError:  # its message holds a part of the address
            raise ValueError("write an address: https://host/path") from None
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("write an address that begins with https:// or http://")
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Hide the webhook: whoever knows its address may post to it."""
        for name, value in super().__repr_args__():
            yield name, HIDDEN if name == "webhook" and value is not None else value

    @field_validator("report_url")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        for _, name, form, _ in Formatter().parse(value):
            if name is not None and (name not in REPORT_PARTS or form):
                raise ValueError(f"'{{{name}}}' stands for nothing. {listing('Names', REPORT_PARTS, wrong=name)}")
        return value


_URLS = ("registry", "online", "event_log")


class Config(BaseSettings):
    """Where a store keeps things and what it may use.

    Attributes:
        registry: SQLAlchemy URL of the registry.
        online: URL of the online store: ``sqlite:///``, ``postgresql://``, ``redis://``, ``valkey://``, ``memory://``.
        event_log: SQLAlchemy URL of the log of pushed events.
        data: Folder of training sets, the serving log, and compacted events; on this machine, or mounted.
        data_is_shared: Whether every process that uses the event log sees the same data folder. Pushed events that are
            in PostgreSQL move to files there only if it is.
        definitions: Module or package of the definitions, for instance ``"feature_definitions"``; empty if there is
            none. It is imported with the folder of the file on the path.
        memory_limit: Bound for the process while training sets are built: ``"1GB"``; ``None`` is unbounded.
        threads: Threads that read and compute; 0 means as many as there are cores.
        temp_folder: Where parts of large sources are kept meanwhile; the system's if ``None``.
        serving_log: What is kept of what was served.
        server: Where the server listens and what it takes.
        policies: What audits and drift allow, by service; ``default`` stands for all that say nothing else.
        schedule: What ``featurestore run`` keeps going.
        audits: Audits that it does.
        drifts: Comparisons of distributions that it does.
        alerts: Who is told about them.
        folder: Folder of the configuration file, or of a local store; set by the loader. Relative paths in the
            configuration count from it.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    registry: DatabaseUrl = "sqlite:///featurestore/registry.db"
    online: DatabaseUrl = "sqlite:///featurestore/online.db"
    event_log: DatabaseUrl = "sqlite:///featurestore/event_log.db"
    data: LocalPath = Path("featurestore")
    data_is_shared: bool = False
    definitions: str = ""
    memory_limit: Bytes | None = Field(default=None, ge=64_000_000)
    threads: Annotated[int, AfterValidator(lambda count: count or os.cpu_count() or 1)] = Field(
        default=0, ge=0, validate_default=True
    )
    temp_folder: LocalPath | None = None
    serving_log: ServingLogConfig = ServingLogConfig()
    server: ServerConfig = ServerConfig()
    policies: dict[str, PolicyConfig] = {}
    schedule: ScheduleConfig = ScheduleConfig()
    audits: list[AuditJobConfig] = []
    drifts: list[DriftJobConfig] = []
    alerts: AlertsConfig = AlertsConfig()
    folder: Path = Field(default=Path(), exclude=True)
    _source_folder: Path | None = PrivateAttr(default=None)

    @property
    def source_folder(self) -> Path:
        """Folder that relative paths of sources count from: the configuration file's, else the working directory.

        Of a local store it is the working directory when the store was opened.
        """
        return self._source_folder or self.folder

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show URLs without their secrets."""
        for name, value in super().__repr_args__():
            yield name, shown(value) if name in _URLS else value

    def policy(self, service: str, declared: PolicyConfig | None = None) -> PolicyConfig:
        """Return what audits and drift of a service allow: said here, else in its definition, else of ``default``.

        Args:
            service: Name of the service.
            declared: What its definition says.
        """
        own, default = (self.policies.get(name, PolicyConfig()) for name in (service, DEFAULT_POLICY))
        return default.overridden(declared or PolicyConfig()).overridden(own)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment come before the file, and take neither ``.env`` files nor secrets."""
        return env_settings, init_settings

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Config:
        """Read a configuration file and the overrides of the environment.

        Args:
            path: The file, or the folder in which ``featurestore.toml`` lies.

        Raises:
            ConfigError: The file is not there or is no TOML, or a key or value in it, or an override, is wrong.
        """
        file = Path(path)
        file = (file / FILE_NAME if file.is_dir() else file).absolute()
        try:
            written = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            hint = f"Write one (an empty file will do), or name another: {CONFIG_VARIABLE}, --config."
            raise ConfigError("the file is not there", where=str(path), hint=hint, code="config-missing") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"it cannot be read: {error}", where=str(path), code="config-unreadable") from error
        return cls._made(written, where=str(path), folder=file.parent)

    @classmethod
    def local(cls, folder: str | os.PathLike[str]) -> Config:
        """Return the configuration that keeps everything under one folder; overrides of the environment count.

        There is no configuration file, so relative paths of sources count from the working directory.

        Raises:
            ConfigError: An override is wrong, or the folder is not one of this machine.
        """
        base = local_target(folder, where="folder").absolute()
        kept = {name: f"{_SQLITE}{name}.db" for name in ("registry", "online", "event_log")} | {"data": "."}
        config = cls._made(kept, where=str(folder), folder=base)
        config._source_folder = Path.cwd()
        return config

    @classmethod
    def _made(cls, written: Mapping[str, Any], *, where: str, folder: Path) -> Config:
        _check_overrides(cls)
        if "folder" in written:
            raise _unknown_key("folder", cls, where)
        try:
            config = cls(**written)
        except ValidationError as error:
            raise _wrong(error, cls, where) from None
        except SettingsError as error:  # its cause holds the text
            raise ConfigError(str(error), where="environment", hint="Write JSON.", code="config-value") from None
        return config._resolved(folder)

    def _resolved(self, folder: Path) -> Config:
        """Return the configuration with paths that count from nowhere else."""
        return self.model_copy(
            update={
                "registry": _resolved_url(self.registry, folder),
                "online": _resolved_url(self.online, folder),
                "event_log": _resolved_url(self.event_log, folder),
                "data": folder / self.data.expanduser(),
                "temp_folder": None if self.temp_folder is None else folder / self.temp_folder.expanduser(),
                "folder": folder,
            }
        )


def _resolved_url(url: str, folder: Path) -> str:
    """Make the path of a SQLite file absolute; other URLs stay."""
    path, mark, query = url.removeprefix(_SQLITE).partition("?")
    if not url.startswith(_SQLITE) or path.startswith((":memory:", "file:")) or not path:
        return url
    return f"{_SQLITE}{folder / Path(path).expanduser()}{mark}{query}"


def _check_overrides(cls: type[Config]) -> None:
    """Refuse variables that look like overrides and name no key: a typing error must not be silent.

    Variables that Kubernetes sets for its Services are not meant for us and are ignored.
    """
    keys = [name for name in cls.model_fields if name != "folder"]
    known = {f"{PREFIX}{name}".upper(): name for name in keys}
    for variable in sorted(os.environ):
        head = variable.partition("__")[0]
        if not variable.startswith(PREFIX) or head in known or variable == CONFIG_VARIABLE:
            continue
        if not _SERVICE_LINK.fullmatch(f"{variable}={os.environ[variable]}"):
            raise ConfigError(
                "unknown configuration variable",
                where=f"environment variable {variable}",
                hint=listing("Variables", known, wrong=head),
                code="config-key",
            )


def _wrong(error: ValidationError, cls: type[BaseModel], where: str) -> ConfigError:
    """Return the error for the first wrong key or value."""
    first = error.errors()[0]
    places = [str(part) for part in first["loc"]]
    variable = f"{PREFIX}{'__'.join(places)}".upper()
    if first["type"] == "extra_forbidden":
        return _unknown_key(places[-1], _table_at(cls, places[:-1]), where, prefix=places[:-1])
    place = f"environment variable {variable}" if variable in os.environ else f"{where}, key '{'.'.join(places)}'"
    message = first["msg"].removeprefix("Value error, ")
    # The value is not shown: it may be, or hold, a password or the token of a webhook.
    return ConfigError(f"the value is wrong: {message}", where=place, code="config-value")


def _table_at(table: type[BaseModel], places: list[str]) -> type[BaseModel]:
    """Return what a table at some place is made by: fields name it, keys of tables of tables, and places in lists."""
    found: Any = table
    for place in places:
        is_table = isinstance(found, type) and issubclass(found, BaseModel)
        found = found.model_fields[place].annotation if is_table else get_args(found)[-1]
        if type(None) in get_args(found):  # a table that may be left out
            (found,) = (part for part in get_args(found) if part is not type(None))
    assert isinstance(found, type)
    assert issubclass(found, BaseModel)
    return found


def _unknown_key(key: str, table: type[BaseModel], where: str, prefix: list[str] | None = None) -> ConfigError:
    place = ".".join([*(prefix or []), key])
    known = [name for name in table.model_fields if name != "folder"]
    return ConfigError(
        f"there is no key '{place}'", where=where, hint=listing("Keys", known, wrong=key), code="config-key"
    )
