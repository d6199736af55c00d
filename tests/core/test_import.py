"""Importing costs little, and every public name is there."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import tectum

HEAVY = ["mne", "nibabel", "tensorly", "pymc", "arviz", "matplotlib", "sklearn", "xarray", "lightning_fabric", "pandas"]


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh process has after running ``code``."""
    script = f"{code}\nimport sys\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_import_tectum_loads_no_library():
    assert loaded_by("import tectum; tectum.__version__; dir(tectum)").isdisjoint([*HEAVY, "torch", "numpy", "scipy"])


def test_the_core_loads_no_heavy_library():
    code = """
import importlib, pkgutil, tectum.core, torch
from tectum.core.recording import Recording
[importlib.import_module(f"tectum.core.{m.name}") for m in pkgutil.iter_modules(tectum.core.__path__)]
rec = Recording(data=torch.zeros(4, 2), dims=("time", "unit"), rate=1.0)
rec.sel(time=(1, 2)).windows(1.0)
"""
    assert loaded_by(code).isdisjoint(HEAVY)


@pytest.mark.parametrize("name", tectum.__all__)
def test_every_public_name_resolves(name):
    value = getattr(tectum, name)
    assert name in dir(tectum)
    if name in tectum._HOMES:
        assert value is getattr(importlib.import_module(tectum._HOMES[name]), name)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'tectum' has no attribute 'Recrding'"):
        _ = tectum.Recrding
