"""Data folders that processes of one registry use, on all machines: so a command can name those it cannot reach.

A folder has an identity in a file of its own. Machines that share a folder see one identity; a folder of another
machine that has the same path has another one. The list is in the database of the registry.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

import sqlalchemy as sa

from featurestore.core.errors import FeatureStoreError, RegistryError
from featurestore.core.temporal import Clock, duration_us, format_instant
from featurestore.storage.database import failures, for_writing, open_database
from featurestore.storage.files import make_file, make_folder

MARK = ".featurestore-folder"
"""Name of the file that holds a folder's identity."""

_WHERE = "data folders"
_AGAIN_US = duration_us("1h")
_KEPT_US = duration_us("400d")
"""After so long without use a folder is taken for gone."""

_CLOSE_SECONDS = 5.0
_LOGGER = logging.getLogger("featurestore.registry")
_METADATA = sa.MetaData()
_FOLDERS = sa.Table(
    "data_folders",
    _METADATA,
    sa.Column("identity", sa.String(32), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("used_at_us", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class DataFolder:
    """A data folder that a process used.

    Attributes:
        host: Name of the machine that used it last.
        path: Its path there.
        used_at_us: When it was used, to the hour.
    """

    host: str
    path: str
    used_at_us: int

    def __str__(self) -> str:
        return f"'{self.path}' on machine '{self.host}' (last used {format_instant(self.used_at_us)})"


class DataFolders:
    """The data folder of this process, and those of others. May be used from several threads and processes."""

    def __init__(self, url: str, folder: Path, clock: Clock) -> None:
        """Take the parts; nothing is opened yet.

        Args:
            url: SQLAlchemy URL of the registry.
            folder: The data folder of this process.
            clock: Tells when it is used.
        """
        self._url = url
        self._folder = folder
        self._clock = clock
        self._lock = Lock()
        self._noted_us: int | None = None
        self._thread: Thread | None = None

    def note_use(self) -> None:
        """Register the folder once an hour, in a thread: a registry that does not answer delays no caller."""
        now_us = self._clock.now_us()
        with self._lock:
            if self._noted_us is not None and 0 <= now_us - self._noted_us < _AGAIN_US:
                return
            self._noted_us = now_us
            self._thread = threading.Thread(target=self._try_to_register, daemon=True, name="data-folder")
            self._thread.start()

    def register(self) -> None:
        """Make the folder if it is absent, give it an identity, and note that it is used.

        Raises:
            OSError: The folder cannot be written.
            RegistryError: The registry cannot be used.
        """
        now_us, identity = self._clock.now_us(), _identified(self._folder)
        values = {"host": socket.gethostname()[:255], "path": str(self._folder.absolute()), "used_at_us": now_us}
        same = _FOLDERS.c.identity == identity
        with self._opened() as engine, engine.connect() as connection:
            known = connection.execute(sa.select(_FOLDERS.c.used_at_us).where(same)).scalar()
            connection.rollback()
            if known is not None and 0 <= now_us - known < _AGAIN_US:
                return
            with for_writing(connection).begin():
                connection.execute(sa.delete(_FOLDERS).where(_FOLDERS.c.used_at_us < now_us - _KEPT_US))
                connection.execute(sa.delete(_FOLDERS).where(same))
                connection.execute(sa.insert(_FOLDERS).values(identity=identity, **values))

    def others(self, *, since_us: int = 0) -> tuple[DataFolder, ...]:
        """Return the folders that are not the one of this process, those used last first.

        Args:
            since_us: Only folders that were used after this instant, or at most an hour before.

        Raises:
            RegistryError: The registry cannot be read.
        """
        identity = _identity(self._folder) or ""
        wanted = sa.select(_FOLDERS).where(
            _FOLDERS.c.identity != identity, _FOLDERS.c.used_at_us >= since_us - _AGAIN_US
        )
        with self._opened() as engine, engine.connect() as connection:
            rows = connection.execute(wanted.order_by(_FOLDERS.c.used_at_us.desc(), _FOLDERS.c.identity)).all()
        return tuple(DataFolder(row.host, row.path, row.used_at_us) for row in rows)

    def close(self) -> None:
        """Wait some seconds for the thread that registers the folder."""
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _try_to_register(self) -> None:
        try:
            self.register()
        except (FeatureStoreError, OSError) as error:  # the next use tries again
            _LOGGER.info("the data folder could not be registered: %s", error)
            with self._lock:
                self._noted_us = None

    @contextmanager
    def _opened(self) -> Iterator[sa.Engine]:
        """Open the database for one use, which is rare."""
        engine = open_database(self._url, where=_WHERE, error=RegistryError)
        try:
            with failures(_WHERE):
                if not sa.inspect(engine).has_table(_FOLDERS.name):
                    with suppress(sa.exc.DBAPIError), engine.connect() as connection, for_writing(connection).begin():
                        _METADATA.create_all(connection)  # another process may do so at the same time
                yield engine
        finally:
            engine.dispose()


def _identity(folder: Path) -> str | None:
    """Return the identity of a folder; ``None`` if it has none yet."""
    try:
        return (folder / MARK).read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _identified(folder: Path) -> str:
    """Return the identity of a folder, which gets one if it has none; of two processes that do so at once one wins."""
    if (known := _identity(folder)) is not None:
        return known
    make_folder(folder)
    written = folder / f"{MARK}.{uuid.uuid4().hex}"
    make_file(written)
    written.write_text(uuid.uuid4().hex, encoding="ascii")
    try:
        with suppress(FileExistsError):
            os.link(written, folder / MARK)
    finally:
        written.unlink()
    return _identity(folder) or ""
