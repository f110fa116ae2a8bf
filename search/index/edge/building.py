"""Build the HNSW index of a shard in a child process, and remember in a file that nothing has been written since."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from search.errors import IndexFailure
from search.processes import command_of


def is_built(shard: Path) -> bool:
    """Return whether the index of a shard was built, and nothing has been written into it since."""
    return _file(shard).exists()


def set_built(shard: Path, built: bool) -> None:
    """Remember that the index of a shard was built, or that it is about to be written into."""
    if built:
        _file(shard).touch()
    else:
        _file(shard).unlink(missing_ok=True)


def build_in_child(shard: Path) -> None:
    """Build the index of a shard, which must be closed, in a child process.

    Building holds the interpreter lock throughout, so progress bars and Ctrl-C continue to work here only this way.

    Raises:
        IndexFailure: it failed.
    """
    command = command_of("search.index.edge.index", "_optimize", str(shard.parent), shard.name)
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        raise IndexFailure(
            f"building the HNSW index of {shard.name} failed ({_reason(child)}); "
            "the points are safe: run the same command again"
        )


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    """Return why a child process failed: its last line, or the signal that ended it."""
    if child.returncode < 0:
        return f"its process was killed by {signal.Signals(-child.returncode).name}: check disk space and memory"
    lines = child.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {child.returncode}"


def _file(shard: Path) -> Path:
    return shard.with_name(f".{shard.name}.built")
