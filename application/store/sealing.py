"""Gives committed events their position in the log: 1, 2, 3 … without a gap, and never held up by an open transaction.

A number drawn at INSERT becomes visible at COMMIT, so a follower that remembers "seen up to n" would lose a lower
number that is committed later. Here the position is given after the commit. Numbers that are not visible yet are
remembered as holes; a hole is dropped only when every transaction that could own it has provably ended and it is still
absent.
"""

from typing import Any, LiteralString

import psycopg

SEAL_BATCH_MAX = 20_000
WAKE: LiteralString = "notify deskledger_appended"
LISTEN: LiteralString = "listen deskledger_appended"

IS_SEALING_PENDING: LiteralString = """
    select holes <> '{}' or (select max(ord) from events) > hi from seal_state"""

# `ord` is the number that an event draws when it is inserted, `hi` the highest one seen; a hole is a number below it
# that is not there: in flight, or rolled back. A fence is the xid that all who could still fill the holes lie below.
# One statement in a transaction of its own, hence one snapshot: what is taken, what is a hole and which transactions
# have ended belong together. This transaction gets its xid *after* the snapshot was taken: every transaction that drew
# a number up to the highest one that the snapshot shows has a lower xid. Locking in a statement before breaks that.
# A pass that waited for the row was overtaken: its xid is older than the `hi` that it finds, so it draws no fence.
# A fence that is not below our xid came with a dump from another cluster, whose xids say nothing here: drawn anew.
# Late numbers come before new ones, and a full pass proves no hole dead: an event that followed a late one must not get
# its position first, and however much was late, no pass takes so long that it is cut off and never ends.
SEAL: LiteralString = """
    with st as materialized (
        select *, pg_snapshot_xmin(pg_current_snapshot()) as oldest,
            not pg_visible_in_snapshot(pass_xid, pg_current_snapshot()) as overtaken,
            case when fence_xid < pg_current_xact_id() then fence_xid end as fence
        from seal_state for update),
    seen as materialized (
        select ord from (
            select late.ord from st, unnest(st.holes) hole join lateral (
                select ord from events where ord >= lower(hole) and ord < upper(hole)
                order by ord limit %(batch)s) late on true
            union all
            (select ord from events where ord > (select hi from st) order by ord limit %(batch)s)) visible
        order by ord limit %(batch)s),
    sealed as (
        insert into log (position, ord)
        select st.next_position + row_number() over (order by ord) - 1, ord from seen, st),
    found as (
        select count(*) as count, max(ord) as top, count(*) < %(batch)s as complete,
               coalesce(range_agg(int8range(ord, ord, '[]')), '{}'::int8multirange) as present
        from seen)
    update seal_state set
        next_position = st.next_position + found.count,
        hi = greatest(st.hi, found.top),
        holes = (st.holes + case when found.top > st.hi then int8multirange(int8range(st.hi, found.top, '(]'))
                                 else '{}'::int8multirange end - found.present)
                * case when not st.overtaken and st.oldest >= st.fence and found.complete
                       then int8multirange(int8range(st.fence_hi, null, '()'))
                       else int8multirange(int8range(null, null)) end,
        fence_hi = case when st.overtaken then st.fence_hi
                        when st.fence is null then greatest(st.hi, found.top)
                        when st.oldest < st.fence or not found.complete then st.fence_hi end,
        fence_xid = case when st.overtaken then st.fence_xid
                         when st.fence is null then pg_current_xact_id()
                         when st.oldest < st.fence or not found.complete then st.fence end,
        pass_xid = pg_current_xact_id()
    from st, found
    where found.count > 0
       or (st.holes <> '{}' and (st.overtaken or st.fence is null or st.oldest >= st.fence))
    returning found.count"""


DELAY: LiteralString = """
    select extract(epoch from clock_timestamp() - at)::float8 from log join events using (ord)
    where position = (select max(position) from log) - %s"""


def seal(connection: psycopg.Connection[Any], batch: int = SEAL_BATCH_MAX) -> int:
    """One pass: gives at most `batch` events their positions, late ones first. Returns how many.

    The connection is in autocommit mode. Two sealers at once are harmless: the row lock makes the second wait, and it
    goes on from what the first has written.
    """
    pending = connection.execute(IS_SEALING_PENDING).fetchone()
    if not pending or not pending[0]:
        return 0
    row = connection.execute(SEAL, {"batch": batch}).fetchone()
    return int(row[0]) if row else 0


def seal_all(connection: psycopg.Connection[Any], batch: int = SEAL_BATCH_MAX) -> int:
    """Passes until a pass is not full. Returns how many events were sealed."""
    total = count = seal(connection, batch)
    while count >= batch:
        total += (count := seal(connection, batch))
    return total


def delay(connection: psycopg.Connection[Any], sealed: int) -> float:
    """How many seconds ago the first of so many events happened, which this process has just sealed.

    0 when another sealer was at it, too, or the clock of whoever recorded the event is ahead of the database's.
    """
    row = connection.execute(DELAY, (sealed - 1,)).fetchone()
    return max(float(row[0]), 0.0) if row else 0.0
