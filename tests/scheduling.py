"""Distribute whole files to pytest-xdist's workers, so that the fixtures of a module are made once.

`--dist loadfile` does that, but several files share the page's server. Its `--dist loadgroup` would keep them together
by appending a group to the ids of tests, which pytest 9.2 ignores.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

OF_THE_PAGE = ("test_web", "test_proxy.", "test_serve.", "test_hostile_texts.")  # they share the fixture `web`


class Files(LoadScopeScheduling):  # type: ignore[misc]
    """Give each worker one file at a time, those with the most tests first; the page's tests count as one file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "the page" if file.rpartition("/")[2].startswith(OF_THE_PAGE) else file
