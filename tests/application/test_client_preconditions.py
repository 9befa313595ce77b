"""A directory entry is written only if it is what the caller takes it to be; the shell over HTTP is tested in api/."""

import pytest

from application.clock import utc_now
from application.commands.supporting_commands import RegisterClient
from application.helpdesk import HelpDesk
from domain.client import Client, Precondition
from domain.errors import StaleVersion
from tests.support.write_side import CONTACT, STAFF

MOVED = RegisterClient("Client One", "new@example.org").contact()
ENTRY = Client(2, "client-1", "Client One", "new@example.org")


@pytest.mark.parametrize(
    ("precondition", "there", "not_there"),
    [
        (Precondition(), True, True),
        (Precondition(version=2), True, False),
        (Precondition(version=1), False, False),
        (Precondition(version=0), False, False),
        (Precondition(exists=True), True, False),
        (Precondition(exists=False), False, True),
    ],
    ids=str,
)
def test_what_a_caller_takes_an_entry_to_be(precondition: Precondition, there: bool, not_there: bool) -> None:
    """A version is that of an entry; nothing named is always so."""
    assert (precondition.holds(ENTRY), precondition.holds(None)) == (there, not_there)


def test_an_entry_that_is_something_else_is_not_written(desk: HelpDesk) -> None:
    """The error has the present version, what was missed, and says what is so."""
    desk.register_client("client-1", CONTACT, STAFF, utc_now(), precondition=Precondition(exists=False))
    desk.register_client("client-1", MOVED, STAFF, utc_now(), precondition=Precondition(version=1))
    for user_id, precondition, version, missed, says in (
        ("client-1", Precondition(version=1), 2, 1, "reads differently"),
        ("client-1", Precondition(version=3), 2, 0, "no such version yet"),
        ("client-1", Precondition(exists=False), 2, 0, "registered already"),
        ("nobody", Precondition(exists=True), 0, 0, "not registered yet"),
    ):
        with pytest.raises(StaleVersion, match=says) as caught:
            desk.register_client(user_id, CONTACT, STAFF, utc_now(), precondition=precondition)
        assert (caught.value.current_version, len(caught.value.missed)) == (version, missed)
