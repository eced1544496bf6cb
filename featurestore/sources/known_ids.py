"""Sets of hashes that may be larger than the memory they are given: sorted runs, the full ones on disk."""

from __future__ import annotations

import tempfile

import numpy as np
import numpy.typing as npt

from featurestore.core.errors import StorageError
from featurestore.sources.settings import ReadSettings

Hashes = npt.NDArray[np.uint64]

_SHARE = 32


class HashSet:
    """Takes 64-bit hashes, and tells whether it has one of some others.

    A run takes 8 bytes a hash. In memory is the one that is being filled; a full one, of a quarter of what reading a
    source may keep in memory (``ReadSettings.spool_bytes``), is a temporary file that is mapped.
    """

    def __init__(self, settings: ReadSettings) -> None:
        """Begin with none; the settings say how large a run is, and where full ones are kept."""
        self._settings = settings
        self._run_length = max(1, settings.spool_bytes // _SHARE)
        self._full: list[Hashes] = []
        self._filling: Hashes = np.zeros(0, dtype=np.uint64)

    def add(self, hashes: Hashes) -> None:
        """Take more hashes, in any order.

        Raises:
            StorageError: The temporary folder refuses a run.
        """
        merged = np.sort(np.concatenate([self._filling, hashes]))
        while len(merged) >= self._run_length:
            self._full.append(self._spilled(merged[: self._run_length]))
            merged = merged[self._run_length :].copy()
        self._filling = merged

    def has_any(self, hashes: Hashes) -> bool:
        """Tell whether one of some hashes is there; the time depends on how many are asked about."""
        return any(_has_any(run, hashes) for run in (*self._full, self._filling))

    def _spilled(self, run: Hashes) -> Hashes:
        try:
            with tempfile.TemporaryFile(prefix="featurestore-ids-", dir=self._settings.temp_folder) as file:
                file.write(run.tobytes())
                file.flush()
                return np.memmap(file, dtype=np.uint64, mode="r")
        except OSError as error:
            hint = "Make room, or name another temporary folder."
            raise StorageError(f"event ids cannot be kept: {error}", where="temporary folder", hint=hint) from error


def _has_any(run: Hashes, hashes: Hashes) -> bool:
    places = np.searchsorted(run, hashes)
    inside = places < len(run)
    return bool((run[places[inside]] == hashes[inside]).any())
