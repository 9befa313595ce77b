"""what happens:
  A PostgreSQL, a server, a worker and a mail server are started in a temporary
  directory. Tickets take every path of the escalation procedure, over HTTP, with
  one key a role; what must be refused is tried as well. Every answer, the queues
  after each step, and at the end the auditor's log and the mails are compared
  with the procedure. Then all of it is ended and removed.

what you see:
  T1-4  agent-tier1  escalate  -> Escalated  tier2  T-000002
  step  whose key    command      event      queue  ticket
  The step is the number in the procedure, "-" for what stands beside it.

exit status:
  0 everything went by the procedure; 1 something deviates; 130 after Ctrl-C

examples:
  deskledger demo                  with colours and a live table of the queues
  deskledger demo --pace 1         slowly, to read along
  deskledger demo | grep '^T1-'    plain lines when piped: the four steps of tier 1
"""  # the command's help shows it
