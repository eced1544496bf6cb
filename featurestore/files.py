"""Writing files so that a crash, of the process or of the machine, leaves them whole or not there at all.

What holds data is made for the owner alone, 0600 and 0700, whatever the umask allows. In a folder that has the
set-group-ID bit, which is how folders are shared by a group, the group gets the rights it has on the folder. What is
there already keeps its rights.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


_FOLDER_RIGHTS = 0o700
_FILE_RIGHTS = 0o600
_GROUP = 0o070
_GROUP_FILE = 0o060


def make_folder(path: Path) -> None:
    """Make a folder for data, and the folders above it that are missing.

    Raises:
        OSError: The disk refuses, or a file is there.
    """
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another process was faster
            folder.mkdir(_FOLDER_RIGHTS | _shared(folder.parent))
    path.mkdir(exist_ok=True)


def opener(path: str, flags: int) -> int:
    """Open a file, for ``open(…, opener=opener)``: one that is made is the owner's alone."""
    return os.open(path, flags, _FILE_RIGHTS | (_shared(Path(path).parent) & _GROUP_FILE))


def make_file(path: Path) -> None:
    """Make an empty file for the owner alone, unless there is one.

    The file is not opened: closing it would take the locks that this process holds on it, as databases do.

    Raises:
        OSError: The disk refuses.
    """
    rights = _FILE_RIGHTS | (_shared(path.parent) & _GROUP_FILE)
    try:
        os.mknod(path, rights | stat.S_IFREG)
    except FileExistsError:
        return
    except (AttributeError, OSError):  # not every system and disk lets users do so
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, rights))


def _shared(folder: Path) -> int:
    """Return the rights of the group on a folder that is shared by a group; none on others."""
    mode = folder.stat().st_mode
    return mode & _GROUP if mode & stat.S_ISGID else 0


def exchange(first: Path, second: Path) -> None:
    """Let two paths change places in one step: whoever looks sees one or the other at each, never nothing.

    Raises:
        FileNotFoundError: One of them is not there.
        OSError: The disk refuses, or the system or the disk cannot do so (``ENOSYS``, ``EINVAL``, ``ENOTSUP``).
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
    """Bring a file, or the names in a folder, to the disk.

    Raises:
        OSError: The disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_parquet(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a Parquet file; it has its name once it is on the disk, whole.

    Args:
        table: What it holds.
        path: Where it lies; folders are made, a file that is there is replaced.
        options: Of ``pyarrow.parquet.write_table``.

    Raises:
        OSError: The disk refuses; what was there is there.
    """
    import pyarrow.parquet as pq

    make_folder(path.parent)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        make_file(unfinished)
        pq.write_table(table, unfinished, **options)
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
