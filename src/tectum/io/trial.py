"""A trial of a reader that is no Python, in a process of its own: what crashes or hangs there does no harm here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tectum.core.errors import LoadError, explain

SECONDS, BYTES_A_SECOND = 4.0, 2e6  # patience with any file, and more of it with large ones
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


def try_first(code: str, path: Path, what: str, *arguments: str) -> str:
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

    Returns
    -------
    str

    Raises
    ------
    LoadError
        If that process fails, crashes, or takes longer than the size of the file excuses.
    """
    patience = SECONDS + path.stat().st_size / BYTES_A_SECOND
    memory = _MEMORY + 8 * path.stat().st_size
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
