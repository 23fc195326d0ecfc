from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.evomerge.merge.flow.trio import FAMILIES, Trio, make_trio


@pytest.fixture(scope="session")
def trios(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Trio]:
    root = tmp_path_factory.mktemp("trios")
    return {family: make_trio(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def llamas(trios: Mapping[str, Trio]) -> Trio:
    return trios["llama"]
