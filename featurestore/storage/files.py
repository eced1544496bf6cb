"""Files that are complete or absent after a crash of the process or of the machine.

Files and folders with data are made for the owner alone, 0600 and 0700, whatever the umask allows. In a folder with the
set-group-ID bit, which is how a group shares folders, the group gets the permissions that it has on the folder.
Existing files keep their permissions.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from featurestore.core.errors import ConfigError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""Beginning of a remote address; a ``Path`` has kept one of its two slashes."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path on this machine.

    Args:
        path: The path; ``s3://bucket/folder`` is not one, neither as text nor as a ``Path``.

    Raises:
        ValueError: It is a remote address. Taken for a path it would make a folder named ``s3:``.

    Example:
        >>> local_path("data/features")
        PosixPath('data/features')
    """
    scheme = _SCHEME.match(os.fspath(path))
    if scheme is not None:
        raise ValueError(
            f"an address that begins with '{scheme[1]}://' is not a path on this machine; "
            "give the path of a local or mounted folder"
        )
    return Path(path)


def local_target(path: str | os.PathLike[str], *, where: str) -> Path:
    """Return a path on this machine, given as an argument.

    Args:
        path: The path.
        where: The argument, for the message.

    Raises:
        ConfigError: It is a remote address (``not-a-local-path``).
    """
    try:
        return local_path(path)
    except ValueError as error:
        raise ConfigError(str(error), where=where, code="not-a-local-path") from None


_FOLDER_RIGHTS = 0o700
_FILE_RIGHTS = 0o600
_GROUP = 0o070
_GROUP_FILE = 0o060


def make_folder(path: Path) -> None:
    """Make a folder for data, and the folders above it that are missing.

    Raises:
        OSError: The disk refuses, or a file of that name exists.
    """
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another process has made it
            folder.mkdir(_FOLDER_RIGHTS | _shared(folder.parent))
    path.mkdir(exist_ok=True)


def opener(path: str, flags: int) -> int:
    """Open a file, for ``open(…, opener=opener)``; a new file is made for the owner alone."""
    return os.open(path, flags, _FILE_RIGHTS | (_shared(Path(path).parent) & _GROUP_FILE))


def make_file(path: Path) -> None:
    """Make an empty file for the owner alone, unless it exists.

    The file is not opened: closing it would release locks that this process holds on it, as databases do.

    Raises:
        OSError: The disk refuses.
    """
    rights = _FILE_RIGHTS | (_shared(path.parent) & _GROUP_FILE)
    try:
        os.mknod(path, rights | stat.S_IFREG)
    except FileExistsError:
        return
    except (AttributeError, OSError):  # not every system and disk permits mknod to users
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, rights))


def _shared(folder: Path) -> int:
    """Return the permissions of the group on a folder that is shared by a group; none for other folders."""
    mode = folder.stat().st_mode
    return mode & _GROUP if mode & stat.S_ISGID else 0


def exchange(first: Path, second: Path) -> None:
    """Exchange two paths atomically: at any moment each of them exists.

    Raises:
        FileNotFoundError: One of them does not exist.
        OSError: The disk refuses, or the system or the disk does not support it (``ENOSYS``, ``EINVAL``, ``ENOTSUP``).
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin":
        done = library.renamex_np(*names, _RENAME_SWAP)
    elif hasattr(library, "renameat2"):
        done = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(second))
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk.

    Raises:
        OSError: The disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file for its owner alone; it appears under its name once it is complete and on the disk.

    Args:
        content: The content.
        path: The path; folders are made, an existing file is replaced.

    Raises:
        OSError: The disk refuses; an existing file is unchanged.
    """
    make_folder(path.parent)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".unfinished")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).replace(path)
        sync(path.parent)
    finally:
        Path(unfinished).unlink(missing_ok=True)
