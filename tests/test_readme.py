"""What the README and the first pages of the documentation promise runs as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/start.md",
    "docs/howto/files.md",
    "docs/data/own.md",
    "docs/data/spikes.md",
    "docs/data/calcium.md",
    "docs/data/worm.md",
    "docs/data/eeg.md",
    "docs/howto/comparison.md",
    "docs/data/fmri.md",
    "docs/howto/bci.md",
    "docs/methods/du_in.md",
)
SECONDS = 240  # far above what a page takes, because machines that test are busy
MAKE = ("demo", "test", "check", "docs")

#: Runs a script; every warning is an error but what tectum says of the data.
RUNNER = """
import runpy, sys, warnings
from tectum.core.errors import TectumWarning
warnings.simplefilter("default", TectumWarning)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_runs(page: str, tmp_path: Path) -> None:
    found = blocks(page, "python")
    assert found
    (tmp_path / "page.py").write_text("\n".join(found), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, "page.py"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_other_python_block_is_at_least_python() -> None:
    pages = [str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts]
    for page in pages:
        for block in blocks(page, "python"):
            compile(block, page, "exec")


def test_what_a_comment_shows_is_what_is_printed() -> None:
    import tectum

    calcium = tectum.datasets.load("songbird_hvc")["calcium"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^print\((calcium.*)\) {2,}# (.*)$", readme, re.M))
    sizes = str(calcium.sel(time=(2.0, 4.0)).sizes)
    assert shown == {"calcium": str(calcium), "calcium.sel(time=(2.0, 4.0)).sizes": sizes}


def test_every_make_target_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "docs/start.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M))
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"demo", "test"} <= named <= rules


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_makefile_can_be_read() -> None:
    for target in MAKE:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_every_command_of_the_readme_exists() -> None:
    from tectum.cli import _parser

    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert content["project"]["scripts"] == {"tectum": "tectum.cli:main"}
    pages = ("README.md", "docs/howto/studies.md")
    lines = [line for page in pages for block in blocks(page, "console") for line in block.splitlines()]
    calls = [line.split("#")[0].split()[1:] for line in lines if line.startswith("tectum ")]
    assert len(calls) >= 4
    for words in calls:
        assert callable(_parser().parse_args(words).command)


def test_every_file_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:docs|tutorials|benchmarks|datasets)/[\w./]*|[A-Z]+\.\w+)`", text)
    assert named
    for path in named:
        assert path.startswith("docs/_build") or (ROOT / path).exists(), path


def test_the_study_of_the_documentation_is_one() -> None:
    from tectum.study import Study

    first, steps = (tomllib.loads(text) for text in blocks("docs/howto/studies.md", "toml"))
    assert Study.from_mapping(first).models[0]["name"] == "rank5"
    assert len(Study.from_mapping({**first, **steps}).preprocess) == 2


def test_the_steps_of_the_documentation_are_those_there_are() -> None:
    from tectum.preprocess import STEPS

    text = (ROOT / "docs/howto/studies.md").read_text(encoding="utf-8")
    line = re.search(r"^Steps run in order: (.*?);", text, re.S | re.M)
    assert line is not None
    assert set(re.findall(r"`(\w+)`", line.group(1))) == set(STEPS)
