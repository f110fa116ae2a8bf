"""Ctrl-C while a command is still importing: exit code 130, and nothing on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INTERRUPTED = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise ImportError\n"


@pytest.mark.parametrize("package", ["ingest", "search", "eval"])
@pytest.mark.parametrize("way", ["module", "console script"])
def test_ctrl_c_during_the_imports(package: str, way: str, tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(INTERRUPTED)  # which each command imports early
    script = f"import sys; from {package} import main; sys.exit(main())"
    command = ["-m", package] if way == "module" else ["-c", script]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        preexec_fn=_deliver_interrupts,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def _deliver_interrupts() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # it may be ignored where the tests run
