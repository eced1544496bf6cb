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

WIDTH = 118
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
    return pretty(document) + "\n"


def pretty(data: object, indent: int = 0, name: str = "") -> str:
    """Return JSON in which whatever fits on a line stands on one, so that a diff shows what changed and little else."""
    text = name + json.dumps(data, sort_keys=True)
    if indent + len(text) <= WIDTH or not isinstance(data, dict | list):
        return text
    inner = indent + 1
    if isinstance(data, list):
        opening, closing, parts = "[", "]", [pretty(item, inner) for item in data]
    else:
        named = [(json.dumps(key) + ": ", data[key]) for key in sorted(data)]
        opening, closing, parts = "{", "}", [pretty(value, inner, title) for title, value in named]
    margin = "\n" + " " * inner
    return name + opening + margin + ("," + margin).join(parts) + "\n" + " " * indent + closing
