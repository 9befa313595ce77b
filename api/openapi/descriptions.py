"""What the contract says in words: of the whole, and of each parameter."""

API_DESCRIPTION = """\
The escalation procedure of a service desk, held by a machine: every ticket is the sum of its events, every command is
checked against the procedure, and everything can be read as it was.

**Who asks.** `Authorization: Bearer <key>`, with a key of `deskledger keys create`, or a token of the issuer that the
desk is set to trust. Without one, 401; without the role that an operation takes, 403, naming the role.

**On which version.** A command names the version that it was decided on: `If-Match: "<version>"`, as in the `ETag` of
the ticket or of the command before. Missing, 428; stale, 412 with `current_version` and `missed_events`.

**Once.** With an `Idempotency-Key` a POST can be sent again whenever its answer was lost: it is done once, and the
first answer comes again byte for byte.

**Reading what one wrote.** Commands answer as soon as they are recorded, lists and queues follow within milliseconds.
`Prefer: wait=5` on the command, or `min_version` or `min_position` on the query, waits for them.

**Errors** are `application/problem+json` (RFC 9457). `code` is stable, `detail` says what to do.
**Lists** are `{"items": [...], "next": "<cursor>" | null}`; the next page is also in the header `Link`.

**Methods.** What answers GET answers HEAD. OPTIONS answers 204 with `Allow`, without a key; any other method is 405.
Answers are not to be kept (`Cache-Control: no-store`) unless they say otherwise.
"""

PARAMETERS: dict[str, str] = {
    "ticket_id": "The ticket: the id that its first command answered.",
    "queue": "The queue.",
    "user_id": "The unique user ID of a client: letters, digits and `. _ @ + -`.",
    "message_id": "The Message-ID of the e-mail, as the list shows it; its angle brackets may be left out.",
    "webhook_id": "The webhook: the id that its creation answered.",
    "wait": "How long to wait for what has not happened yet, in seconds: a page for one event, a stream for more.",
    "metric": "A metric, as `/v1/reports` names it.",
    "limit": "How many items a page has.",
    "cursor": "Where the page begins: `next` of the page before, as it is.",
    "client_user_id": "Only what is of this client.",
    "state": "Only what is in this state.",
    "level": "Only what is at this level.",
    "assignee": "Only what this id has been assigned.",
    "priority": "Only what has this priority; 1 is worked first.",
    "unassigned": "Only tickets that nobody has, or only those that somebody has.",
    "waiting_on_client": "Only tickets that wait for their client, or only the others.",
    "created_from": "Only tickets received at this time or later.",
    "created_to": "Only tickets received before this time, which must have passed.",
    "q": "Words of the request, the issue, the client or the number. Not for reporters, who read no free text.",
    "version": "The ticket as it was at this version.",
    "as_of": "As it was at this time, which must have passed. Waits until what is read has passed it, too.",
    "position": "The ticket as it was at this position of the log; one beyond its end is 409.",
    "min_version": "Waits until lists and queues hold this version of the ticket.",
    "min_position": "Waits until what is read stands at this position of the log.",
    "after": "Only events above this position; one beyond the log's end is 409: the log was restored.",
    "log_id": "The log that the position is of; of another one is 409: begin again.",
    "type": "Only events of this type: `Ticket.Escalated`.",
    "event_names": "In a `text/event-stream`: whether each event has its type as its name. An EventSource hands what"
    " has a name to a listener of that name, and only what has none to `onmessage`.",
    "actor": "Only what this id did.",
    "from": "Only what happened at this time or later.",
    "to": "Only what happened before this time, which must have passed. Waits until what is read has passed it, too.",
    "group_by": "One cell for each of these, separated by commas. The metric says which of them it takes.",
}
