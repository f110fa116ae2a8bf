"""Contestants for the tests of benchmarks, in a module that their own processes import quickly."""

from __future__ import annotations

import os
import signal

import numpy as np


def hundred_mebibytes(fill: int) -> int:
    return int(np.full(100 * 2**20, fill, dtype=np.uint8)[-1])


def broken(_: int) -> int:
    raise ValueError("on purpose")


def killed(_: int) -> int:
    os.kill(os.getpid(), signal.SIGBUS)
    return 0
