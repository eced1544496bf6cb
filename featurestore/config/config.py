"""Reading the configuration: ``featurestore.toml``, with overrides from the environment.

An environment variable ``FEATURESTORE_<KEY>`` overrides a key, ``FEATURESTORE_<TABLE>__<KEY>`` one inside a table
(``FEATURESTORE_SERVER__PORT=8080``). Relative paths, also those inside SQLite URLs, count from the folder of the
file. An unknown key or a wrong value is an error that names the file or variable and the key. Only the variables that
Kubernetes sets for Services of similar names are ignored.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from featurestore.config.tables import (
    DEFAULT_POLICY,
    AlertsConfig,
    AuditJobConfig,
    DriftJobConfig,
    PolicyConfig,
    ScheduleConfig,
    ServerConfig,
    ServingLogConfig,
)
from featurestore.config.values import Bytes, DatabaseUrl, LocalPath, Threads
from featurestore.core.errors import ConfigError, listing
from featurestore.core.urls import shown
from featurestore.storage.files import local_target

FILE_NAME = "featurestore.toml"
PREFIX = "FEATURESTORE_"
CONFIG_VARIABLE = "FEATURESTORE_CONFIG"
"""Names the configuration file, for programs that take no path."""

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

_SQLITE = "sqlite:///"
_URLS = ("registry", "online", "event_log")


class Config(BaseSettings):
    """Where a store keeps its data, and which resources it may use.

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
        threads: Threads that read and compute; 0 stands for the number of cores.
        temp_folder: Folder for parts of large sources while they are read; the system's if ``None``.
        serving_log: What the serving log keeps.
        server: Where the server listens, and its limits.
        policies: Differences that audits and drift allow, by service; ``default`` stands for all services.
        schedule: What ``featurestore run`` does beside the refreshes that views declare.
        audits: Audits that it repeats.
        drifts: Comparisons of distributions that it repeats.
        alerts: Where alerts are sent.
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
    threads: Threads = Field(default=0, ge=0, validate_default=True)
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
        """Return the policy of a service: each key from here, else from its definition, else from ``default``.

        Args:
            service: Name of the service.
            declared: The policy of its definition.
        """
        configured, default = (self.policies.get(name, PolicyConfig()) for name in (service, DEFAULT_POLICY))
        return default.overridden(declared or PolicyConfig()).overridden(configured)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment override the file; ``.env`` files and folders of secrets are not read."""
        return env_settings, init_settings

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Config:
        """Read a configuration file and the overrides of the environment.

        Args:
            path: The file, or the folder in which ``featurestore.toml`` lies.

        Raises:
            ConfigError: The file does not exist or is not TOML, or a key or value in it, or an override, is wrong.
        """
        file = Path(path)
        file = (file / FILE_NAME if file.is_dir() else file).absolute()
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            hint = f"Write one (an empty file will do), or name another: {CONFIG_VARIABLE}, --config."
            raise ConfigError("the file is not there", where=str(path), hint=hint, code="config-missing") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"it cannot be read: {error}", where=str(path), code="config-unreadable") from error
        return cls._read(table, where=str(path), folder=file.parent)

    @classmethod
    def local(cls, folder: str | os.PathLike[str]) -> Config:
        """Return the configuration that keeps everything under one folder; overrides of the environment apply.

        There is no configuration file, so relative paths of sources count from the working directory.

        Raises:
            ConfigError: An override is wrong, or the folder is not one of this machine.
        """
        base = local_target(folder, where="folder").absolute()
        table = {name: f"{_SQLITE}{name}.db" for name in _URLS} | {"data": "."}
        config = cls._read(table, where=str(folder), folder=base)
        config._source_folder = Path.cwd()
        return config

    @classmethod
    def _read(cls, table: Mapping[str, Any], *, where: str, folder: Path) -> Config:
        _check_overrides(cls)
        if "folder" in table:
            raise _unknown_key("folder", cls, where)
        try:
            config = cls(**table)
        except ValidationError as error:
            raise _wrong(error, cls, where) from None
        except SettingsError as error:  # its cause holds the text
            raise ConfigError(str(error), where="environment", hint="Write JSON.", code="config-value") from None
        return config.model_copy(
            update={
                **{name: _absolute_url(getattr(config, name), folder) for name in _URLS},
                "data": folder / config.data.expanduser(),
                "temp_folder": None if config.temp_folder is None else folder / config.temp_folder.expanduser(),
                "folder": folder,
            }
        )


def read_policy(table: Mapping[str, Any], where: str) -> PolicyConfig:
    """Read a policy that is not in a configuration file, for instance one of a definition.

    Raises:
        ConfigError: A key or value is wrong.
    """
    try:
        return PolicyConfig.model_validate(dict(table))
    except ValidationError as error:
        raise _wrong(error, PolicyConfig, where) from None


def _absolute_url(url: str, folder: Path) -> str:
    """Make the path of a SQLite file absolute; other URLs stay."""
    path, mark, query = url.removeprefix(_SQLITE).partition("?")
    if not url.startswith(_SQLITE) or path.startswith((":memory:", "file:")) or not path:
        return url
    return f"{_SQLITE}{folder / Path(path).expanduser()}{mark}{query}"


def _check_overrides(cls: type[Config]) -> None:
    """Refuse variables that look like overrides and do not name a key: a typing error must not be silent.

    Variables that Kubernetes sets for its Services are ignored.
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
    """Return the model of the table at a path of field names, keys of tables of tables, and positions in lists."""
    kind: Any = table
    for place in places:
        is_table = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[place].annotation if is_table else get_args(kind)[-1]
        if type(None) in get_args(kind):  # a table that may be left out
            (kind,) = (part for part in get_args(kind) if part is not type(None))
    assert isinstance(kind, type)
    assert issubclass(kind, BaseModel)
    return kind


def _unknown_key(key: str, table: type[BaseModel], where: str, prefix: list[str] | None = None) -> ConfigError:
    place = ".".join([*(prefix or []), key])
    known = [name for name in table.model_fields if name != "folder"]
    return ConfigError(
        f"there is no key '{place}'", where=where, hint=listing("Keys", known, wrong=key), code="config-key"
    )
