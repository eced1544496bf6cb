"""Definitions and the plans they compile to, side by side: ``cases/x.py`` and ``cases/x.json``.

A case is a module with definitions and ``SCHEMAS``. The JSON beside it is compared as text and reviewed as a diff;
``python -m tests.golden.rewrite`` writes it anew. A fingerprint that changes here changes for users: their online
state is filled again.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from featurestore.definitions.collection import collect
from featurestore.plan.codec import encode
from featurestore.plan.compiler import compile_definitions

FOLDER = Path(__file__).parent / "cases"
CASES = tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"))


def golden_path(case: str) -> Path:
    """Return where the plans of a case are kept."""
    return FOLDER / f"{case}.json"


def compiled_text(case: str) -> str:
    """Return the plans of a case as text for people: indented, with fingerprints."""
    module = importlib.import_module(f"tests.golden.cases.{case}")
    plans = compile_definitions(collect(module), module.SCHEMAS)
    document = {
        "services": {
            name: {"fingerprint": plan.fingerprint, "plan": encode(plan)} for name, plan in plans.services.items()
        },
        "views": {name: plan.fingerprint for name, plan in plans.views.items()},
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
