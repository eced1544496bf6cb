"""Every cause that an audit can prove, collected from the modules in ``hypotheses``.

To add a cause, add a module there that holds a ``Hypothesis``; its ``rank`` says where it stands.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from featurestore.guard.causes import hypotheses
from featurestore.guard.causes.model import Hypothesis


def _discovered() -> tuple[Hypothesis, ...]:
    """Return the hypotheses that the modules of the package hold, by rank."""
    modules = [import_module(f"{hypotheses.__name__}.{info.name}") for info in iter_modules(hypotheses.__path__)]
    members = [member for module in modules for member in vars(module).values() if isinstance(member, Hypothesis)]
    return tuple(sorted(members, key=lambda hypothesis: hypothesis.rank))


HYPOTHESES: tuple[Hypothesis, ...] = _discovered()
"""All hypotheses, by rank."""

UNEXPLAINED = "unexplained"
"""The cause of a value that no assumption reproduces."""

CAUSES: tuple[str, ...] = (*dict.fromkeys(hypothesis.name for hypothesis in HYPOTHESES), UNEXPLAINED)
"""Names of all causes, in the order of the lowest rank of each."""
