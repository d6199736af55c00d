"""A trial of a reader that is no Python, in a process of its own: what crashes or hangs there does no harm here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tectum.core.errors import LoadError, explain

#: Patience with any file, and more of it with large ones that are read whole, or of which only headers are.
SECONDS, BYTES_A_SECOND, HEADERS_ONLY = 4.0, 2e6, 2e9
_LIMITS = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
except (ImportError, ValueError, OSError):
    pass
"""
_MEMORY = 4 << 30


def try_first(code: str, path: Path, what: str, *arguments: str, whole: bool = True) -> str:
    """Run code over a file (``sys.argv[1]``) in another process and return what it prints.

    Parameters
    ----------
    code : str
        Python source that reads the file as it is going to be read here.
    path : Path
        The file.
    what : str
        What reads it, for the message.
    *arguments : str
        More for the code: ``sys.argv[3]`` and so on.
    whole : bool, default True
        Whether the code reads more than headers, so that it may take time in proportion to the file.

    Returns
    -------
    str

    Raises
    ------
    LoadError
        If that process fails, crashes, or takes longer than the size of the file excuses.
    """
    size = _size(path)
    patience = SECONDS + size / (BYTES_A_SECOND if whole else HEADERS_ONLY)
    memory = _MEMORY + 8 * size
    command = [sys.executable, "-P", "-c", _LIMITS + code, str(path), str(memory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        got = f"no answer within {patience:.0f} s"
        raise LoadError(explain(str(path), expected=f"a file that {what} reads", got=got)) from None
    if done.returncode < 0 or done.returncode > 128:
        got = f"the end of its process (status {done.returncode})"
        raise LoadError(explain(str(path), expected=f"a file that {what} reads", got=got))
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["an error"]
        raise LoadError(explain(str(path), expected=f"a file that {what} reads", got=last[0]))
    return done.stdout.decode(errors="replace")


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder, 0 for what is only the stem of names."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size if path.exists() else 0
