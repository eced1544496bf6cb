"""The plan that a training set pins: its service must answer with this plan."""

from __future__ import annotations

import json
import os
from pathlib import Path

from featurestore.core.errors import ConfigError

_MANIFEST = "_manifest.json"


def pinned_by(trained_on: str | os.PathLike[str] | None) -> dict[str, str]:
    """Return the fingerprint of a training set's plan, by service.

    Args:
        trained_on: The training set's folder, or its manifest; ``None`` pins nothing.

    Raises:
        ConfigError: There is no such manifest, or the file is not a manifest.
    """
    if trained_on is None:
        return {}
    path = Path(trained_on)
    if not path.is_file():
        path /= _MANIFEST
    where, hint = "client", "Give the folder of a training set, or its manifest."
    try:
        manifest = json.loads(path.read_bytes())
        return {str(manifest["service"]): str(manifest["fingerprint"])}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", where=where, hint=hint, code="no-manifest") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is not a manifest", where=where, hint=hint, code="no-manifest") from None
