"""The whole path over real HTTP, with a real worker and a real mail server."""

from tests.support.running_desk import RunningDesk, wait_until


def test_a_ticket_goes_from_request_to_closing_mail(served: RunningDesk) -> None:
    """The thinnest whole path: opened, resolved, verified, documented, closed, mailed, and the outcome recorded."""
    ticket = served.ticket()
    served.close(ticket)
    wait_until(lambda: served.mailbox.messages, "the closing e-mail arrives")
    wait_until(lambda: served.get(f"/v1/tickets/{ticket}").version == 10, "the outcome is recorded")
    types = [event["type"] for event in served.get(f"/v1/tickets/{ticket}/history").json["items"]]
    assert types == [
        "Ticket.RequestReceived",
        "Ticket.ClientIdentified",
        "Ticket.Created",
        "Ticket.IssueDocumented",
        "Ticket.Routed",
        "Ticket.Resolved",
        "Ticket.QCVerified",
        "Ticket.ResolutionDocumented",
        "Ticket.Closed",
        "Ticket.ClosureEmailSent",
    ]
