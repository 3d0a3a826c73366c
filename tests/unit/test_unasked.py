"""What libraries load unasked: system/unasked."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from nanumpay_backupd.system import unasked


def test_a_process_with_the_driver_does_not_load_cryptography_in_vain() -> None:
    """Where what OCSP needs is not installed, importing pymongo does not load `cryptography`."""
    code = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "service_identity" else found(name)
from nanumpay_backupd.system.unasked import leave_out_half_installed
leave_out_half_installed()
import pymongo.ssl_support
print(pymongo.ssl_support.HAVE_PYSSL, "cryptography" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_where_all_is_installed_the_driver_may_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """OCSP is not taken from an operator who has installed what it needs."""
    monkeypatch.delitem(sys.modules, "pymongo.pyopenssl_context", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None))
    unasked.leave_out_half_installed()
    assert "pymongo.pyopenssl_context" not in sys.modules
