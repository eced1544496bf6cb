"""What a process does that is there to serve and for nothing else, once it is ready."""

from __future__ import annotations

import gc
import sys

SWITCH_SECONDS = 0.0005
"""Requests wait no longer than this for the threads that write logs."""


def settle() -> None:
    """Let threads take turns quickly, and the garbage collector pass by what was loaded: it stays as long as we do.

    There are some hundred thousand such objects. Looking through all of them, as the collector does again and again,
    takes a tenth of a second in which nobody is answered.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Let the garbage collector look at everything again: the process goes on with something else."""
    gc.unfreeze()
