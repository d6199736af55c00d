"""Makes the writers of test files importable as ``writers``, and a folder that others than its owner may enter."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder that others may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="tectum-permissions-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
