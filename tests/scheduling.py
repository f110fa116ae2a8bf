"""Share the tests out among pytest-xdist's workers: whole files, so that a module's fixtures are made once.

pytest-xdist writes the group of a test into its id, which pytest 9.2 no longer lets it do, and would share out single
tests instead.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

OF_THE_PAGE = ("test_web", "test_proxy", "test_serve", "test_hostile_texts")  # they share one server, fixture `web`


class Files(LoadScopeScheduling):  # type: ignore[misc]
    """Give each worker a file at a time, those with the most tests first; the tests of the page count as one file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "the page" if file.rpartition("/")[2].startswith(OF_THE_PAGE) else file
