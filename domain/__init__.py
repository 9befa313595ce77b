"""The escalation procedure as pure code: events, decisions, evolution. No I/O, no clock, no SQL, no HTTP."""
