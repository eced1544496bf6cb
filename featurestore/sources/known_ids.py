"""Sets of hashes that may be larger than their memory: sorted runs, the full ones on disk."""

from __future__ import annotations

import tempfile

import numpy as np

from featurestore.core.columns import Words
from featurestore.core.errors import StorageError
from featurestore.sources.settings import ReadSettings

_SHARE = 32


class HashSet:
    """A set of 64-bit hashes that can be asked whether it has one of some others.

    A run takes 8 bytes a hash. In memory is the one that is being filled; a full one, of a quarter of what reading a
    source may keep in memory (``ReadSettings.spool_bytes``), is a temporary file that is mapped.
    """

    def __init__(self, settings: ReadSettings) -> None:
        """Begin empty; the settings have the size of a run and the folder of full ones."""
        self._settings = settings
        self._run_length = max(1, settings.spool_bytes // _SHARE)
        self._full: list[Words] = []
        self._filling: Words = np.zeros(0, dtype=np.uint64)

    def add(self, hashes: Words) -> None:
        """Add hashes, in any order.

        Raises:
            StorageError: The temporary folder refuses a run.
        """
        merged = np.sort(np.concatenate([self._filling, hashes]))
        while len(merged) >= self._run_length:
            self._full.append(self._spilled(merged[: self._run_length]))
            merged = merged[self._run_length :].copy()
        self._filling = merged

    def has_any(self, hashes: Words) -> bool:
        """Return whether one of some hashes is there; the time grows with their number."""
        return any(_has_any(run, hashes) for run in (*self._full, self._filling))

    def _spilled(self, run: Words) -> Words:
        try:
            with tempfile.TemporaryFile(prefix="featurestore-ids-", dir=self._settings.temp_folder) as file:
                file.write(run.tobytes())
                file.flush()
                return np.memmap(file, dtype=np.uint64, mode="r")
        except OSError as error:
            hint = "Make room, or name another temporary folder."
            raise StorageError(f"event ids cannot be kept: {error}", where="temporary folder", hint=hint) from error


def _has_any(run: Words, hashes: Words) -> bool:
    places = np.searchsorted(run, hashes)
    inside = places < len(run)
    return bool((run[places[inside]] == hashes[inside]).any())
