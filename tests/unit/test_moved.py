"""Modules that users import are found by their former addresses."""

import sys
from importlib import import_module

import pytest

from featurestore.core.moved import MOVED


@pytest.mark.parametrize("former", sorted(MOVED))
def test_a_former_address_leads_to_the_module_and_warns(former, monkeypatch):
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=f"'{former}' has moved to '{MOVED[former]}'"):
        found = import_module(former)
    assert found is import_module(MOVED[former])
    assert found.__spec__.name == MOVED[former]


def test_an_unknown_address_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"featurestore\.skew\.nothing"):
        import_module("featurestore.skew.nothing")
