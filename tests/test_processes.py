"""Processes of this project."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from search.processes import command_of, processors


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to processors")
def test_only_the_processors_of_this_process_count() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from search.processes import processors; print(processors())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert processors() == len(os.sched_getaffinity(0))


def test_a_function_is_called_with_its_arguments() -> None:
    done = subprocess.run(command_of("builtins", "print", "a b", "ü$"), capture_output=True, text=True, check=True)
    assert done.stdout == "a b ü$\n"
