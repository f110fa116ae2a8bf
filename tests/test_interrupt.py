"""Ctrl-C while a command is still importing: exit code 130, and nothing on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INTERRUPTED = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise ImportError\n"


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("package", ["ingest", "search", "eval"])
@pytest.mark.parametrize("way", ["module", "console script"])
def test_ctrl_c_during_the_imports(package: str, way: str, tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(INTERRUPTED)  # which each command imports early
    script = f"import sys; from {package} import main; sys.exit(main())"
    if way == "module":
        script = f"import runpy; runpy.run_module('{package}', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
