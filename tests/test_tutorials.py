"""Every tutorial runs from its first line to its last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
SECONDS = 60  # what a tutorial may take on one free core
SLACK = 4  # for cores that other tests share

#: Runs a script; every warning is an error but what tectum says of the data.
RUNNER = """
import runpy, sys, warnings
from tectum.core.errors import TectumWarning
warnings.simplefilter("default", TectumWarning)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_there_are_tutorials() -> None:
    assert len(TUTORIALS) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_runs_without_a_python_warning(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, str(path)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS * SLACK,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    assert list(tmp_path.iterdir()) == []  # a tutorial leaves nothing in the reader's folder
