"""A client of the package that openapi-generator makes: a ticket goes through tier 1 and tier 2."""

import sys
from uuid import UUID

import openapi_client as c

base, staff_key, checker_key = sys.argv[1:]


def signed_in(key: str) -> c.CommandsApi:
    """The commands for a key."""
    return c.CommandsApi(c.ApiClient(c.Configuration(host=base, access_token=key)))


def on(before: c.CommandAnswer) -> tuple[UUID, str]:
    """The ticket and its version, for the next command."""
    return before.ticket_id, f'"{before.version}"'


staff, checker = signed_in(staff_key), signed_in(checker_key)
contact = c.RegisterClient(name="Client", email="client-py@example.org")
c.ClientsApi(staff.api_client).register_client("client-py", contact)
issue = c.DocumentIssue(
    summary="No print", description="None.", category="printing", impact=c.Grade.LOW, urgency=c.Grade.HIGH
)
request = c.NewTicket(client_user_id="client-py", channel=c.Channel.WEB, text="It does not print.", issue=issue)
at = c.RequestsApi(staff.api_client).create_ticket(request)
at = staff.escalate_ticket(*on(at), escalate_ticket=c.EscalateTicket(reason="not here"))
at = staff.qualify_ticket(*on(at), qualify_ticket=c.QualifyTicket(can_resolve=True, rationale="drum"))
at = staff.resolve_ticket(*on(at), resolve_ticket=c.ResolveTicket(resolution="New drum."))
satisfied = c.VerifyTicket(satisfied=True, confirmed_via=c.Channel.PHONE, comment="It prints.")
at = checker.verify_ticket(*on(at), verify_ticket=satisfied)
details = c.DocumentResolution(cause="drum", actions="changed", checked_by_method="test page")
at = staff.document_resolution(*on(at), document_resolution=details)
at = staff.close_ticket(*on(at))
history = c.TicketsApi(staff.api_client).get_ticket_history(at.ticket_id)
escalated = [one.actual_instance for one in history.items if isinstance(one.actual_instance, c.TicketEscalated)]
assert escalated[0].data is not None
assert escalated[0].data.to_level == c.Level.TIER2
print(at.state.value, len(history.items) >= at.version)
