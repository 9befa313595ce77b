"""The server does what its document says: the short form of `make contract`, with the same seed each time."""

from collections.abc import Iterator

import pytest

from api.openapi.operations import ENDPOINTS
from domain.values import Role
from tests.support.contract_check import SETTINGS, everything, requests, walks
from tests.support.running_desk import RunningDesk
from tests.support.schemathesis_hooks import CLIENT

# The commands are made of the same parts: the short form takes some of them, and the walks take all.
OTHERS = [one.name for one in ENDPOINTS if one.tag == "Commands" and one.name not in ("add_note", "approve_dossier")]


@pytest.fixture(scope="module")
def desk(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """A desk with the settings of the long form."""
    served = RunningDesk(module_database, tmp_path_factory.mktemp("contract"))
    served.environment |= SETTINGS
    with served:
        yield served


def test_every_operation_answers_as_described(desk: RunningDesk) -> None:
    """Requests that fit the document and that do not: no 500, and no answer that is not described."""
    found = requests(desk, everything(desk), seed=1, cases=1, without=OTHERS)
    assert found.in_order, found.said
    assert found.cases > 1_000


def test_walks_along_the_links_are_answered_as_described(desk: RunningDesk) -> None:
    """What an answer leads to can be done with what it says, and is answered as described, too."""
    found = walks(desk, everything(desk), seed=1, cases=6)
    assert found.in_order, found.said
    assert found.cases > 20


def test_a_client_is_answered_as_described(desk: RunningDesk) -> None:
    """So is somebody who may do little: here a client."""
    found = walks(desk, desk.key(Role.CLIENT, client=CLIENT), seed=1, cases=5)
    assert found.in_order, found.said
