"""The parts of a feature store, and how they are put together.

The only place that knows which part needs which others. Verbs are given the parts and use those they need.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import RLock
from typing import Any, Generic, TypeVar, overload

from featurestore.config import Config
from featurestore.core.temporal import Clock, SystemClock
from featurestore.online.answering.live import LivePlans, acting_user
from featurestore.online.answering.plan_cache import PlanCache
from featurestore.online.answering.serving import Serving
from featurestore.online.pushing import Streams
from featurestore.online.stores.opening import open_online_store
from featurestore.online.stores.store import OnlineStore
from featurestore.registry import Registry
from featurestore.registry.api_keys import ApiKeys
from featurestore.registry.catalog import Catalog
from featurestore.registry.data_folders import DataFolders
from featurestore.serving_log import ServingLog
from featurestore.sources import ReadSettings
from featurestore.sources.event_log import EventLog

CLOSING_ORDER = (
    "api_keys",
    "streams",
    "serving",
    "plan_cache",
    "live_plans",
    "serving_log",
    "data_folders",
    "online",
    "event_log",
    "settings",
    "catalog",
    "registry",
)
"""The parts in the order in which they are closed: a part is closed before the parts that it uses."""

_T = TypeVar("_T")
_LOGGER = logging.getLogger("featurestore.store")


class Part(Generic[_T]):
    """A part that is made when it is first used: once, whichever threads use it at the same time.

    From then on it lies in the ``__dict__`` of its owner, where reading it takes no lock.
    """

    def __init__(self, make: Callable[[Parts], _T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, parts: None, owner: type) -> Part[_T]: ...

    @overload
    def __get__(self, parts: Parts, owner: type) -> _T: ...

    def __get__(self, parts: Parts | None, owner: type) -> _T | Part[_T]:
        if parts is None:
            return self
        with parts.lock:
            if self._name not in parts.__dict__:
                parts.__dict__[self._name] = self._make(parts)
            part: _T = parts.__dict__[self._name]
            return part


class Parts:
    """The parts of a feature store.

    Attributes:
        config: Where the parts keep things and what they may use.
        clock: Returns the present instant.
        lock: Held while a part is made.
    """

    def __init__(self, config: Config, *, clock: Clock | None = None, **ready: Any) -> None:
        """Store the configuration; nothing is opened yet.

        Args:
            config: Where the parts keep things.
            clock: Returns the present instant; the machine's clock if ``None``.
            ready: Parts that exist already, by name, such as ``online=``: they are used instead of the configured ones
                and are closed together with the others.

        Raises:
            TypeError: A part of that name does not exist.
        """
        if unknown := ready.keys() - set(CLOSING_ORDER):
            raise TypeError(f"a feature store has no part {min(unknown)!r}. Parts: {', '.join(sorted(CLOSING_ORDER))}")
        self.config = config
        self.clock = clock or SystemClock()
        self.lock = RLock()
        self.__dict__.update(ready)

    def made(self, name: str) -> Any:
        """Return a part if it was made already, else ``None``."""
        return self.__dict__.get(name)

    @Part
    def registry(self) -> Registry:
        """What is applied, and what ran."""
        return Registry(self.config.registry)

    @Part
    def api_keys(self) -> ApiKeys:
        """The API keys of the server."""
        return ApiKeys(self.config.registry)

    @Part
    def catalog(self) -> Catalog:
        """The applied definitions and their plans."""
        return Catalog(
            self.registry,
            settings=self.settings,
            clock=self.clock,
            module=self.config.definitions,
            folder=self.config.folder,
        )

    @Part
    def settings(self) -> ReadSettings:
        """What reading sources may use."""
        return ReadSettings(
            threads=self.config.threads,
            memory_bytes=self.config.memory_limit,
            temp_folder=self.config.temp_folder,
            base_folder=self.config.source_folder,
            event_log=self.event_log,
        )

    @Part
    def event_log(self) -> EventLog:
        """The pushed events."""
        return EventLog(self.config.event_log, self.config.data / "event_log", is_shared=self.config.data_is_shared)

    @Part
    def online(self) -> OnlineStore:
        """Where the states of entities are kept."""
        return open_online_store(self.config.online)

    @Part
    def data_folders(self) -> DataFolders:
        """The data folders of all machines that use the registry."""
        return DataFolders(self.config.registry, self.config.data, self.clock)

    @Part
    def serving_log(self) -> ServingLog:
        """What was served."""
        settings = self.config.serving_log
        return ServingLog(
            self.config.data / "serving_log",
            clock=self.clock,
            interval_seconds=settings.flush_seconds,
            share=settings.share,
            retention_days=settings.retention_days,
            written=self.data_folders.note_use,
        )

    @Part
    def live_plans(self) -> LivePlans:
        """Which plan answers each service."""
        return LivePlans(self.catalog, self.registry, self.online, self.clock)

    @Part
    def streams(self) -> Streams:
        """What takes pushed events and folds them into online state."""
        return Streams(
            self.catalog,
            self.online,
            self.event_log,
            to_follow=lambda: self.live_plans.to_follow(keep=self.config.schedule.keep_plans),
            settings=self.settings,
            clock=self.clock,
            began=lambda: self.live_plans.record("push", changed_by=acting_user()),
        )

    @Part
    def plan_cache(self) -> PlanCache:
        """The live plans on disk, for a start while the registry cannot be reached."""
        return PlanCache(self.config.data / "serving", self.config.registry)

    @Part
    def serving(self) -> Serving:
        """What answers questions."""
        log = self.serving_log if self.config.serving_log.enabled else None
        return Serving(
            lambda: self.catalog,
            lambda: self.live_plans,
            self.online,
            log,
            self.clock,
            self.plan_cache,
        )

    def close(self) -> None:
        """Close the parts that were made, each before those it uses; the next use makes them again.

        Every part is closed, also after one that fails.

        Raises:
            BaseException: The first failure, once all parts are closed; later ones are logged.
        """
        with self.lock:
            parts = [(name, self.__dict__.pop(name)) for name in CLOSING_ORDER if name in self.__dict__]
        failure: BaseException | None = None
        for name, part in parts:
            try:
                if hasattr(part, "close"):
                    part.close()
            except BaseException as error:
                if failure is None:
                    failure = error
                else:
                    _LOGGER.warning("closing %s failed as well: %s", name, error)
        if failure is not None:
            raise failure
