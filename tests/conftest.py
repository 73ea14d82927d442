"""How the suite shares two cores: tests that start processes run one after the other, beside all that do not."""

from collections.abc import Sequence

import pytest

_ALONE = ("integration", "e2e")


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Keep the tests of Ray in one process of ``pytest -n``: their clusters want the machine for themselves."""
    for item in items:
        if item.path.parent.name in _ALONE:
            item.add_marker(pytest.mark.xdist_group("ray"))
