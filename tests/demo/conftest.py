from __future__ import annotations

import pytest

from tests.cli.conftest import make_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory)
