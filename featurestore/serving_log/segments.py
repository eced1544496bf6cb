"""Segments: append-only files of records, one for each process that serves.

A segment is a sequence of frames: length and CRC-32, four bytes each, and MessagePack. A frame that names a plan comes
before the records of that plan. The process that writes a segment holds a lock on it, so a segment that can be locked
was left by a dead process. An incomplete frame at the end, which a crash left, is ignored. Other files in the folder,
with other names or not regular, are ignored too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from zlib import crc32

import msgspec
import pyarrow as pa

from featurestore.plan.model import Plan
from featurestore.serving_log.columns import log_schema
from featurestore.serving_log.rows import Record
from featurestore.storage.files import make_folder, opener

SUFFIX = ".segment"
_NAME = re.compile(rf"\d{{20,}}-\d+-[0-9a-f]{{32}}{re.escape(SUFFIX)}")
_FRAME = msgspec.msgpack.Encoder()


class PlanFrame(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The frame of a plan, before its records.

    Attributes:
        number: Number of the plan in the records.
        service: Name of its service.
        fingerprint: Its fingerprint.
        schema: The columns of its log, as Arrow writes them.
    """

    number: int
    service: str
    fingerprint: str
    schema: bytes


class RecordFrame(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One answer.

    Attributes:
        number: Of its plan.
        record: The answer.
    """

    number: int
    record: Record


_READ = msgspec.msgpack.Decoder(PlanFrame | RecordFrame)


@dataclass
class Logged:
    """The records of one plan in a segment."""

    service: str
    fingerprint: str
    schema: pa.Schema
    records: list[Record] = field(default_factory=list)


class SegmentWriter:
    """Appends records to a new segment. Used by one thread at a time."""

    def __init__(self, folder: Path, *, first_us: int) -> None:
        """Make a segment and lock it.

        Args:
            folder: The folder of segments.
            first_us: When its first record was logged; segments are read in this order.

        Raises:
            OSError: The file cannot be made.
        """
        make_folder(folder)
        self.path, self._file = _new_file(folder, first_us)
        self._named: set[int] = set()
        self.size = 0

    def append(self, frames: Sequence[tuple[int, bytes]], plans: Mapping[int, bytes]) -> None:
        """Write frames and sync them to the disk, all of them or none.

        Args:
            frames: Frames of records, each with the number of its plan.
            plans: By number the frames that name plans.

        Raises:
            OSError: The disk refuses; the segment is as it was.
        """
        fresh = dict.fromkeys(number for number, _ in frames if number not in self._named)
        data = b"".join([*(plans[number] for number in fresh), *(frame for _, frame in frames)])
        try:
            write_all(self._file, data)
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self.size)
            self._file.seek(self.size)
            raise
        self.size += len(data)
        self._named.update(fresh)

    def close(self) -> None:
        """Close the file, which releases its lock."""
        self._file.close()


def _new_file(folder: Path, first_us: int) -> tuple[Path, FileIO]:
    """Make a file and lock it; repeat if another process sealed it before it was locked."""
    while True:
        path = folder / f"{first_us:020d}-{os.getpid()}-{uuid.uuid4().hex}{SUFFIX}"
        file = FileIO(path, "xb", opener=opener)
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return path, file
        file.close()


def read_segment(path: Path) -> tuple[list[Logged], int]:
    """Read a segment, also one that is being written.

    Returns:
        The records by plan, in the order of their first records; and how many bytes at the end are not a frame.

    Raises:
        OSError: The file cannot be read, is damaged, or is gone: it was sealed meanwhile.
    """
    data = path.read_bytes()
    plans: dict[int, Logged] = {}
    at = 0
    try:
        for frame, end in _frames(data):
            at = end
            if isinstance(frame, PlanFrame):
                schema = pa.ipc.read_schema(pa.py_buffer(frame.schema))
                plans[frame.number] = Logged(frame.service, frame.fingerprint, schema)
            else:
                plans[frame.number].records.append(frame.record)
    except (msgspec.MsgspecError, pa.ArrowException, KeyError, ValueError) as error:
        raise OSError(errno.EIO, f"it is damaged, or not a file of this library ({error})", str(path)) from error
    return list(plans.values()), len(data) - at


def segments_in(folder: Path) -> list[Path]:
    """Return the segments of a folder, oldest first."""
    segments = []
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):  # it was sealed meanwhile
            if _NAME.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
                segments.append(path)
    return sorted(segments)


@contextmanager
def unlocked(path: Path) -> Iterator[bool]:
    """Lock a segment, unless its writer lives or it was sealed; yield whether it is locked.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield path.exists()


def plan_frame(number: int, plan: Plan) -> bytes:
    """Return the frame that names a plan."""
    return framed(PlanFrame(number, plan.name, plan.fingerprint, log_schema(plan).serialize().to_pybytes()))


def framed(frame: PlanFrame | RecordFrame) -> bytes:
    """Return the bytes of a frame in a segment."""
    data = _FRAME.encode(frame)
    return len(data).to_bytes(4, "little") + crc32(data).to_bytes(4, "little") + data


def _frames(data: bytes) -> Iterator[tuple[PlanFrame | RecordFrame, int]]:
    """Yield frames and where each ends, up to the first that is not complete."""
    at = 0
    while at + 8 <= len(data):
        begin, end = at + 8, at + 8 + int.from_bytes(data[at : at + 4], "little")
        body = data[begin:end]
        if end > len(data) or crc32(body) != int.from_bytes(data[at + 4 : begin], "little"):
            return
        yield _READ.decode(body), end
        at = end


def write_all(file: FileIO, data: bytes) -> None:
    """Write all bytes to an unbuffered file, which may accept them in parts."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]
