"""What each test guards: a mechanism is taken out of a copy of the tree, and the tests that are named must fail.

`make mutations` does so for every row of `MUTATIONS`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("domain", "application", "projections", "api", "tests", "pyproject.toml", "requirements.lock", "Makefile")
AT_ONCE = 2
LONGEST_SECONDS = 150  # of the tests of one mutation
LONGEST_OF_ALL_SECONDS = 900

SEALING = "application/sealing.py"
STORE = "application/event_store.py"
COMBINING = "application/combining.py"
GROUP = "application/group_commit.py"
TABLES = "application/migrations/0001_event_store.sql"
PASS = 'row = connection.execute(SEAL, {"batch": batch}).fetchone()'
SCAN_FIRST = """seen = connection.execute("select ord from events, seal_state where ord > hi or holes @> ord")
    row = connection.execute(SEAL, {"seen": [number for (number,) in seen], "batch": batch}).fetchone()"""
LOCK_FIRST = f"""with connection.transaction():
        connection.execute("select from seal_state for update")
        {PASS}"""
RUNNING = "coalesce((select min(backend_xid::text::int8)::text::xid8 from pg_stat_activity), pg_current_xact_id())"
BROKEN = re.compile(
    r"[\w.]*(PostgresError|SyntaxError|Undefined|NameError|TypeError|ImportError|ProgrammingError|AttributeError)"
)
S, E, C = (
    "tests/application/test_sealing.py::",
    "tests/application/test_event_store.py::",
    "tests/application/test_combining.py::",
)
G = "tests/application/test_group_commit.py::"
SOCKETS, SHUTDOWN = "tests/api/test_sockets.py::", "tests/system/test_shutdown.py::"
CHAOS = "tests/system/test_connection_cuts.py::test_whoever_sends_again_has_each_command_done_once"
STORM = "tests/system/test_claim_storm.py::"
CONNECTION, DEALING = "api/connection.py", "projections/dealing.py"
FEED, STREAMS = "tests/projections/test_event_feed.py::", "tests/api/test_feed_streams.py::"

PROMISES = {
    "1": "positions are 1, 2, 3 … without a gap, and none is given again",
    "2": "what was read up to a position never changes",
    "3": "every committed event is sealed exactly once",
    "4": "a transaction that is held open is sealed later, and not lost",
    "5": "a stream is sealed in the order of its versions, and an acknowledged event before one that was sent after it",
    "6": "two sealers at once are harmless",
    "7": "sealing resumes after the sealer or the database was killed",
    "8": "prepared transactions and long ones in another database stall nothing",
    "a": "a command's events are all recorded or none, also beside others",
    "b": "two batches cannot deadlock",
    "c": "a batch that fails harms only the command that is at fault",
    "d": "each request has its own answer, and one that was cut off takes no other along",
    "e": "commands on one stream see one another, or a conflict",
    "number": "no two tickets have one number, also when the sequence forgets what it gave",
    "repeat": "a command that is sent again under its key is not done again",
    "view": "a read model applies every event once",
    "claim": "a ticket is claimed once, the best one first, and nobody is sent away while one is free",
    "wire": "what comes over the wire is answered once, done once or not at all, and holds nobody else up",
    "feed": "a reader of the feed gets every event once, in order, however it comes, and holds nobody else up",
}


class Mutation(NamedTuple):
    """A mechanism, the promises that stand on it, how to take it out, and the tests that must fail then."""

    mechanism: str
    promises: str
    edits: tuple[tuple[str, str, str], ...]  # file, exact text, what is put in its place
    tests: tuple[str, ...]


MUTATIONS = (
    # ── the sealed log ──────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "holes: numbers below the highest one are remembered until they are seen",
        "3 4",
        ((SEALING, "then int8multirange(int8range(st.hi, found.top, '(]'))", "then '{}'::int8multirange"),),
        (S + "test_a_held_transaction_is_sealed_later_and_stalls_nobody", S + "test_what_was_read_never_changes"),
    ),
    Mutation(
        "fence: a hole is dropped only when all who could own it have ended",
        "3 4",
        (
            (SEALING, "when not st.overtaken and st.oldest >= st.fence and", "when not st.overtaken and"),
            (SEALING, "(st.overtaken or st.fence is null or st.oldest >= st.fence)", "true"),
        ),
        (
            S + "test_a_held_transaction_is_sealed_later_and_stalls_nobody",
            S + "test_rolled_back_numbers_stay_holes_until_the_fence_proves_them_dead",
        ),
    ),
    Mutation(
        "a fence holds for the numbers up to where it was set, and no further",
        "3 4",
        ((SEALING, "then int8multirange(int8range(st.fence_hi, null, '()'))", "then '{}'::int8multirange"),),
        (S + "test_a_hole_above_the_fence_outlives_the_holes_below_it",),
    ),
    Mutation(
        "who is at work is asked of the snapshot, which knows prepared transactions, and not of the connections",
        "3 8",
        (
            (
                SEALING,
                "pg_snapshot_xmin(pg_current_snapshot()) as oldest",
                f"{RUNNING} as oldest",
            ),
        ),
        (S + "test_a_prepared_transaction_stalls_nothing",),
    ),
    Mutation(
        "one snapshot: what is there and who has ended are asked together",
        "3 4",
        (
            (
                SEALING,
                "    seen as materialized (\n",
                "    seen as materialized (select unnest(%(seen)s::bigint[]) as ord),\n    unused as materialized (\n",
            ),
            (
                SEALING,
                PASS,
                SCAN_FIRST,
            ),
        ),
        (S + "test_a_late_commit_is_not_judged_by_what_was_seen_before_it",),
    ),
    Mutation(
        "one statement: the sealer has no transaction ID before its snapshot",
        "3 4",
        (
            (
                SEALING,
                PASS,
                LOCK_FIRST,
            ),
        ),
        (S + "test_the_fence_is_drawn_after_the_snapshot",),
    ),
    Mutation(
        "the row lock of the sealer",
        "1 6",
        ((SEALING, "from seal_state for update)", "from seal_state)"),),
        (S + "test_the_second_of_two_sealers_goes_on_from_the_first",),
    ),
    Mutation(
        "a sealer that was overtaken while it waited draws no fence",
        "3 6",
        ((SEALING, "not pg_visible_in_snapshot(pass_xid, pg_current_snapshot()) as overtaken", "false as overtaken"),),
        ("tests/application/test_sealing_overtaken.py::test_an_overtaken_sealer_draws_no_fence",),
    ),
    Mutation(
        "a fence from another cluster (a restored dump) is drawn anew",
        "7",
        ((SEALING, "case when fence_xid < pg_current_xact_id() then fence_xid end as fence", "fence_xid as fence"),),
        (S + "test_a_fence_from_another_cluster_is_drawn_anew",),
    ),
    Mutation(
        "a full pass proves no hole dead",
        "3 4",
        ((SEALING, "st.oldest >= st.fence and found.complete\n", "st.oldest >= st.fence\n"),),
        (S + "test_a_pass_takes_late_events_first_and_no_more_than_its_batch",),
    ),
    Mutation(
        "late numbers go before new ones",
        "5",
        (
            (
                SEALING,
                "        order by ord limit %(batch)s),\n    sealed",
                "        order by ord desc limit %(batch)s),\n    sealed",
            ),
        ),
        (S + "test_a_pass_takes_late_events_first_and_no_more_than_its_batch",),
    ),
    Mutation(
        "positions follow the numbers",
        "5",
        ((SEALING, "row_number() over (order by ord)", "row_number() over (order by ord desc)"),),
        (S + "test_positions_are_contiguous_from_one", S + "test_an_acknowledged_event_comes_before_one_sent_after_it"),
    ),
    Mutation(
        "positions go on exactly where the last pass ended",
        "1",
        ((SEALING, "st.next_position + found.count,", "st.next_position + found.count + 1,"),),
        (S + "test_positions_are_contiguous_from_one",),
    ),
    Mutation(
        "the next position lies in the row and not in the memory of a sealer",
        "1 7",
        (
            (
                SEALING,
                "select st.next_position + row_number() over (order by ord) - 1,",
                "select %(last)s + row_number() over (order by ord),",
            ),
            (
                SEALING,
                'SEAL, {"batch": batch}).fetchone()',
                'SEAL, {"batch": batch, "last": LAST[0]}).fetchone()\n    LAST[0] += row[0] if row else 0',
            ),
            (SEALING, "BATCH = 20_000", "BATCH = 20_000\nLAST = [0]"),
        ),
        (S + "test_a_killed_sealer_leaves_whole_passes",),
    ),
    Mutation(
        "the log is on disk when a pass has ended",
        "2 7",
        ((TABLES, "create table log (", "create unlogged table log ("),),
        (S + "test_sealing_resumes_after_a_crash_of_the_database",),
    ),
    Mutation(
        "nothing waits until nobody else is at work",
        "4 8",
        (
            (
                SEALING,
                "where ord > (select hi from st)",
                "where (select oldest from st) = pg_current_xact_id() and ord > (select hi from st)",
            ),
        ),
        (
            S + "test_a_held_transaction_is_sealed_later_and_stalls_nobody",
            S + "test_a_long_transaction_in_another_database_stalls_nothing",
            S + "test_a_prepared_transaction_stalls_nothing",
        ),
    ),
    Mutation(
        "a writer has its transaction ID before its number",
        "3",
        ((STORE, "with xid as materialized (select pg_current_xact_id())", "with xid as materialized (select 1)"),),
        (S + "test_a_writer_has_its_xid_before_its_number",),
    ),
    Mutation(
        "no connection keeps numbers for later",
        "3 5",
        ((TABLES, "create sequence events_ord as bigint cache 1", "create sequence events_ord as bigint cache 20"),),
        (S + "test_an_acknowledged_event_comes_before_one_sent_after_it",),
    ),
    Mutation(
        "an event has one place in the log: `ord` is unique",
        "3",
        (
            (TABLES, "ord      bigint not null unique\n", "ord      bigint not null\n"),
            (TABLES, "create unique index events_by_ord", "create index events_by_ord"),
        ),
        (S + "test_nothing_is_given_twice[the event]", S + "test_nothing_is_given_twice[the number]"),
    ),
    Mutation(
        "a position is given once: it is the primary key",
        "1",
        ((TABLES, "position bigint primary key,", "position bigint not null,"),),
        (S + "test_nothing_is_given_twice[the position]",),
    ),
    Mutation(
        "history is insert-only",
        "2",
        (
            (
                TABLES,
                "create trigger insert_only before update or delete or truncate on events",
                "create trigger insert_only before truncate on events",
            ),
            (
                TABLES,
                "create trigger insert_only before update or delete or truncate on log",
                "create trigger insert_only before truncate on log",
            ),
        ),
        tuple(
            f"{S}test_history_is_insert_only[{change}-{table}]"
            for table in ("events", "log")
            for change in ("update {} set ord = ord + 1", "delete from {}")
        ),
    ),
    # ── the append, and combining ───────────────────────────────────────────────────────────────────────────
    Mutation(
        "the first event of a command decides for the others",
        "a",
        ((STORE, "from given join heads using (stream_id)\n", "from given\n"),),
        (E + "test_a_command_that_comes_second_leaves_nothing",),
    ),
    Mutation(
        "a command that lost does not fail its batch",
        "a c",
        (
            (
                STORE,
                "        on conflict (stream_id, version) do nothing\n        returning stream_id",
                "        returning stream_id",
            ),
        ),
        (E + "test_a_command_that_comes_second_leaves_nothing", E + "test_two_at_once_on_one_version_have_one_winner"),
    ),
    Mutation(
        "a version of a stream is there once: it is the primary key",
        "a e",
        (
            (
                TABLES,
                "    primary key (stream_id, version)\n);\ncreate unique",
                "    constraint pair unique (stream_id, version, ord)\n);\ncreate unique",
            ),
            (STORE, "on conflict (stream_id, version) do nothing", "on conflict do nothing"),
        ),
        (S + "test_nothing_is_given_twice[the version]", C + "test_two_processes_on_the_same_tickets"),
    ),
    Mutation(
        "the events of a command draw their numbers in the order of their versions",
        "5",
        ((STORE, "order by stream_id, version) sorted", "order by stream_id, version desc) sorted"),),
        (E + "test_all_events_of_a_command_are_recorded_in_order",),
    ),
    Mutation(
        "all write their streams in one order",
        "b",
        ((STORE, "            order by stream_id) sorted", "            ) sorted"),),
        (E + "test_batches_in_opposite_order_do_not_deadlock",),
    ),
    Mutation(
        "all write their keys in one order",
        "b",
        ((STORE, '        order by principal collate "C", key collate "C")', "        )"),),
        (E + "test_keys_in_opposite_order_do_not_deadlock",),
    ),
    Mutation(
        "a batch that the database refuses is repeated command by command",
        "c",
        ((COMBINING, "for one in batch:\n                    await self._trip([one])", "_fail(batch, error)"),),
        (C + "test_a_bad_command_harms_only_itself",),
    ),
    Mutation(
        "an append waits for who is about to append",
        "",
        ((COMBINING, "for each in self._after if each._under_way]", "for each in ()]"),),
        (C + "test_an_append_waits_for_who_is_about_to_append",),
    ),
    Mutation(
        "and no longer than a moment",
        "",
        ((COMBINING, "timeout=LONGEST_WAIT_SECONDS", "timeout=None"),),
        (C + "test_a_load_that_takes_long_holds_up_no_append",),
    ),
    Mutation(
        "what may have been recorded is not tried again",
        "c",
        ((COMBINING, "except Unavailable as error:  # it may", "except ZeroDivisionError as error:  # it may"),),
        (C + "test_a_batch_that_broke_off_is_not_tried_again",),
    ),
    Mutation(
        "who went away before the trip wants nothing any more",
        "d",
        ((COMBINING, "for wanted, future in batch if not future.done()]", "for wanted, future in batch]"),),
        (C + "test_who_went_away_before_the_trip_is_not_recorded",),
    ),
    Mutation(
        "who went away during the trip is passed over",
        "d",
        (
            (
                COMBINING,
                "if not future.done():\n                    future.set_result(answer)",
                "future.set_result(answer)",
            ),
        ),
        (C + "test_each_want_gets_its_own_answer[False]",),
    ),
    Mutation(
        "who goes away does not end the trip of the others",
        "d",
        ((COMBINING, "if not future.done():\n            future.set_exception(error)", "future.set_exception(error)"),),
        (C + "test_each_want_gets_its_own_answer[True]",),
    ),
    Mutation(
        "each request has the answer to what it wanted",
        "d",
        ((COMBINING, "zip(batch, answers, strict=True)", "zip(batch, reversed(answers), strict=True)"),),
        (C + "test_each_want_gets_its_own_answer[False]", C + "test_a_command_that_lost_leaves_the_rest_of_its_batch"),
    ),
    Mutation(
        "what one trip does not take goes with the next",
        "d",
        ((COMBINING, "self._waiting[MOST_IN_ONE_TRIP:]", "[]"),),
        (C + "test_what_one_trip_does_not_take_goes_with_the_next",),
    ),
    Mutation(
        "commands on one stream take turns",
        "e",
        ((COMBINING, "async with self._turn(request.ticket_id):", "async with asyncio.Lock():"),),
        (C + "test_many_commands_on_one_ticket_all_succeed",),
    ),
    Mutation(
        "the database refuses a number that a ticket has already",
        "number",
        (("application/migrations/0007_ticket_numbers.sql", "create unique index", "create index"),),
        (
            C + "test_numbers_given_before_do_not_stop_a_batch",
            "tests/application/test_helpdesk.py::test_a_number_that_was_given_before_is_not_given_again[helpdesk]",
            "tests/application/test_helpdesk.py::test_a_number_that_was_given_before_is_not_given_again[combining]",
        ),
    ),
    Mutation(
        "each try of a command draws a number of its own",
        "number",
        (
            (
                "application/helpdesk.py",
                "        for _ in range(MOST_TRIES):\n            number = ",
                "        number = ",
            ),
            ("application/helpdesk.py", "# a new one for each try\n", "\n        for _ in range(MOST_TRIES):\n"),
        ),
        ("tests/application/test_helpdesk.py::test_a_number_that_was_given_before_is_not_given_again[helpdesk]",),
    ),
    Mutation(
        "a command without a version is decided again when another came first",
        "e",
        (("application/deciding.py", "MOST_TRIES = 100", "MOST_TRIES = 1"),),
        (C + "test_a_command_that_lost_leaves_the_rest_of_its_batch", C + "test_two_processes_on_the_same_tickets"),
    ),
    Mutation(
        "a command that names a version is decided on that version only",
        "e",
        (("application/deciding.py", "request.expected_version != ticket.version", "request.expected_version < 0"),),
        (C + "test_one_of_many_commands_with_one_version_wins",),
    ),
    # ── the group commit of threads ─────────────────────────────────────────────────────────────────────────
    Mutation(
        "threads: a conflict fails the insert as a whole",
        "a e",
        ((STORE, 'as leaf) as given"""', 'as leaf) as given on conflict do nothing"""'),),
        (G + "test_of_two_on_one_version_the_first_wins",),
    ),
    Mutation(
        "threads: an insert has its transaction ID before its number",
        "3",
        ((STORE, "with own as materialized (select pg_current_xact_id())", "with own as materialized (select 1)"),),
        (G + "test_an_insert_has_its_xid_before_its_number",),
    ),
    Mutation(
        "threads: all write their streams in one order",
        "b",
        ((STORE, "sorted(rows, key=_place)", "list(rows)"),),
        (G + "test_batches_in_opposite_order_do_not_deadlock",),
    ),
    Mutation(
        "threads: all write their keys in one order",
        "b",
        ((STORE, "sorted((record for _, record in kept), key=_under)", "[record for _, record in kept]"),),
        (G + "test_keys_in_opposite_order_do_not_deadlock",),
    ),
    Mutation(
        "threads: the events of a stream draw their numbers in the order of their versions",
        "5",
        ((STORE, "_uuid(row.originator_id).int, row.originator_version\n", "_uuid(row.originator_id).int, 0\n"),),
        (G + "test_versions_of_a_stream_draw_their_numbers_in_order",),
    ),
    Mutation(
        "threads: a batch that the database refuses is repeated command by command",
        "c",
        ((GROUP, "if len(batch) > 1:", "if len(batch) > 100:"),),
        (G + "test_a_bad_command_harms_only_itself", G + "test_a_known_key_stops_its_own_command_only"),
    ),
    Mutation(
        "threads: it is repeated over the same connection, on which nothing can be sent when it broke",
        "c",
        ((GROUP, "self._send(connection, [one])", "self._commit([one])"),),
        (G + "test_a_batch_that_broke_off_is_not_tried_again",),
    ),
    Mutation(
        "threads: who went away before its turn wants nothing any more",
        "d",
        ((GROUP, "[one for one in self._waiting if one is not own]", "list(self._waiting)"),),
        (G + "test_who_is_interrupted_while_waiting_is_not_recorded",),
    ),
    Mutation(
        "threads: whose leader was interrupted is not told that it is recorded",
        "d",
        ((GROUP, "self.error: Exception | None = BROKEN_OFF", "self.error: Exception | None = None"),),
        (G + "test_who_was_sent_by_an_interrupted_leader_is_told",),
    ),
    Mutation(
        "threads: every key of a batch is recorded with its command",
        "repeat",
        ((GROUP, "for one in batch if one.kept]", "for one in batch[1:] if one.kept]"),),
        (G + "test_a_known_key_stops_its_own_command_only",),
    ),
    # ── repeated commands, and read models ──────────────────────────────────────────────────────────────────
    Mutation(
        "a known key stops its command",
        "repeat",
        ((STORE, "and stream_id not in (select stream_id from done)", ""),),
        (E + "test_a_key_that_is_known_stops_its_own_command_only",),
    ),
    Mutation(
        "the first answer of a key is found again",
        "repeat",
        (
            (
                COMBINING,
                "once.recognise(await self._find_kept((once.principal, once.key)))",
                "await self._find_kept((once.principal, once.key))",
            ),
        ),
        ("tests/application/test_idempotency.py::test_a_repetition_comes_before_the_version",),
    ),
    Mutation(
        "two that come at once under one key: the primary key lets one through",
        "repeat",
        ((TABLES, "    primary key (principal, key)\n", "    unique (principal, key, at, answer)\n"),),
        (E + "test_keys_in_opposite_order_do_not_deadlock",),
    ),
    Mutation(
        "a command that lost leaves no key",
        "repeat a",
        ((STORE, "from kept join heads using (stream_id)\n", "from kept\n"),),
        (E + "test_keys_are_recorded_for_the_winners_only",),
    ),
    Mutation(
        "a checkpoint is compared before it is set",
        "view",
        (("projections/runner.py", "where name = any(%s) and position = %s", "where name = any(%s) and %s >= 0"),),
        ("tests/projections/test_checkpoints.py::test_a_checkpoint_that_moved_undoes_the_batch",),
    ),
    Mutation(
        "where a dossier stands, a summary is folded also for a remark",
        "view",
        (("projections/ticket_summaries.py", "and state not in {} returning", "and {} is not null returning"),),
        (
            "tests/projections/test_history_only_events.py::test_a_dossier_lapses_by_a_remark",
            "tests/projections/test_history_only_events.py::test_remarks_in_any_batch_are_what_a_rebuild_makes_of_them",
        ),
    ),
    Mutation(
        "where a dossier stands, a stay is folded also for a remark",
        "view",
        (("projections/queue_stays.py", "last.state in {} is not false", "last.state is null and {} is not null"),),
        (
            "tests/projections/test_history_only_events.py::test_a_dossier_lapses_by_a_remark",
            "tests/projections/test_history_only_events.py::test_remarks_in_any_batch_are_what_a_rebuild_makes_of_them",
        ),
    ),
    Mutation(
        "a ticket with a remark and something else in one batch is folded",
        "view",
        (("projections/remarks.py", "last.pop(sealed.stream_id.int, None)", "pass"),),
        ("tests/projections/test_history_only_events.py::test_remarks_in_any_batch_are_what_a_rebuild_makes_of_them",),
    ),
    Mutation(
        "a remark on a ticket that is not there parks its stream",
        "view",
        (("projections/queue_stays.py", "is not false else", "is true else"),),
        ("tests/projections/test_parking.py::test_what_has_no_beginning_is_parked",),
    ),
    Mutation(
        "only stays that changed are written",
        "view",
        (("projections/queue_stays.py", " != old.get(stay.entered_position, stay)", ".entered_position in old"),),
        ("tests/projections/test_history_only_events.py::test_what_changes_no_stay_writes_none",),
    ),
    Mutation(
        "a stay that changed leaves the count that it was in",
        "view",
        (("projections/queue_stays.py", "_count(counts, before.values(), -1)", "_count(counts, stays.values(), -1)"),),
        (
            "tests/projections/test_history_only_events.py::test_remarks_in_any_batch_are_what_a_rebuild_makes_of_them",
            "tests/projections/test_projections.py::test_counts_are_what_one_would_count",
        ),
    ),
    Mutation(
        "the worker looks things up by their keys, also in a table that is still small",
        "view",
        (("projections/runner.py", "    connection.execute(LOOK_UPS)\n", ""),),
        ("tests/projections/test_history_only_events.py::test_a_round_reads_no_growing_table_from_end_to_end",),
    ),
    # ── the event feed ──────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "a page ends where its last row stands, not where the log does",
        "feed",
        (("projections/feed.py", "FeedRows(found, found[-1].position, True)", "FeedRows(found, through, True)"),),
        (f"{FEED}test_all_forms_tell_the_same", f"{STREAMS}test_who_hangs_up_anywhere_and_resumes_misses_nothing"),
    ),
    Mutation(
        "Last-Event-ID wins over after",
        "feed",
        (("api/events.py", "after = last_event_id(req, after)", "last_event_id(req, after)"),),
        (f"{FEED}test_last_event_id_wins", f"{STREAMS}test_who_hangs_up_anywhere_and_resumes_misses_nothing"),
    ),
    Mutation(
        "whoever waits gets what came with the others' wishes only where it fits",
        "feed",
        (("projections/tail.py", "if _fits(wish, one)", "if one.row.position > wish.position"),),
        (f"{FEED}test_streams_follow_what_fits",),
    ),
    Mutation(
        "what is found in the moment in which somebody stops waiting is found again",
        "feed",
        (("projections/tail.py", "if wish.settled.done():  # it has", "if False:  # it has"),),
        (f"{STREAMS}test_whoever_is_told_that_it_is_over_is_not_moved_on",),
    ),
    Mutation(
        "the end of the waiting throws nothing away",
        "feed",
        (
            (
                "projections/tail.py",
                "            await asyncio.wait((wish.settled,), timeout=seconds)\n",
                "            async with asyncio.timeout(seconds):\n                return await wish.settled\n",
            ),
            (
                "projections/tail.py",
                "        finally:\n            self._wishes.d",
                "        except TimeoutError:\n            return []\n        finally:\n            self._wishes.d",
            ),
        ),
        (f"{STREAMS}test_what_comes_in_the_moment_in_which_the_time_is_over_counts",),
    ),
    Mutation(
        "all who wait share one query",
        "feed",
        (
            (
                "projections/tail.py",
                "full |= await self._look(asked, of_clients)",
                "[await self._look([one], of_clients) for one in asked]",
            ),
        ),
        (f"{STREAMS}test_a_hundred_who_wait_share_one_query",),
    ),
    Mutation(
        "a stream keeps nothing of what it has sent",
        "feed",
        (
            ("api/following.py", "self._parts = self._run()", "self._parts, self._sent = self._run(), []"),
            (
                "api/following.py",
                "            for part in parts:\n",
                "            self._sent += parts\n            for part in parts:\n",
            ),
        ),
        (f"{STREAMS}test_a_long_stream_takes_no_memory",),
    ),
    Mutation(
        "streams have two connections of their own",
        "feed",
        (("api/streams.py", "most=CONNECTIONS", "least=8, most=8"), ("api/streams.py", ", least=0", "")),
        (f"{STREAMS}test_streams_share_two_connections",),
    ),
    Mutation(
        "keys are looked at again while their streams are open",
        "feed",
        (("api/streams.py", "if not good:", "if False:"),),
        (f"{STREAMS}test_a_revoked_key_ends_its_streams",),
    ),
    Mutation(
        "streams end as soon as the server begins to",
        "feed",
        (("api/connection.py", "        self.asgi.end_streams()\n", ""),),
        (f"{STREAMS}test_streams_end_with_the_server",),
    ),
    Mutation(
        "a reader that does not read is cut off",
        "feed",
        (("api/streams.py", "place.sending_since < now - patience", "False"),),
        (f"{STREAMS}test_a_reader_that_does_not_read_is_dropped",),
    ),
    Mutation(
        "a stream that has ended gives its place back",
        "feed",
        (
            ("api/streams.py", "self._places.discard(place)", "kept.append(place)"),
            ("api/streams.py", "log = structlog", "kept: list[object] = []\nlog = structlog"),
        ),
        (f"{STREAMS}test_a_place_is_free_again_when_the_reader_is_gone",),
    ),
    Mutation(
        "an event that cannot be read is an item that says so",
        "feed",
        (("projections/feed.py", "        return _unreadable(row)\n", "        raise\n"),),
        (f"{FEED}test_an_event_that_cannot_be_read_stops_nobody",),
    ),
    # ── claims ──────────────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "free tickets are dealt out in the order of the queue",
        "claim",
        ((DEALING, "order by rank, entered_at, ticket_id limit", "order by rank desc, entered_at, ticket_id limit"),),
        (
            f"{STORM}test_a_storm_on_a_full_queue",
            "tests/api/test_claim_next.py::test_the_most_urgent_is_next_and_then_the_oldest",
        ),
    ),
    Mutation(
        "a ticket that was put down without being claimed is dealt out again",
        "claim",
        ((DEALING, "        self._held.discard(free.ticket_id)\n", ""),),
        ("tests/projections/test_claim_dispenser.py::test_what_is_put_down_is_dealt_again",),
    ),
    Mutation(
        "nobody is sent away while somebody may still put a ticket down",
        "claim",
        ((DEALING, "asked.busy = busy", "asked.busy = False"),),
        ("tests/projections/test_claim_dispenser.py::test_who_finds_all_in_other_hands_waits",),
    ),
    Mutation(
        "who goes away while tickets are dealt out takes none along",
        "claim",
        ((DEALING, "            if not asked.gone:\n", "            if True:\n"),),
        ("tests/projections/test_claim_dispenser.py::test_who_goes_away_takes_no_ticket_along",),
    ),
    Mutation(
        "what was passed over is looked at again when it has moved on",
        "claim",
        (
            (DEALING, "(ticket_id, last.version) not in (select * from", "ticket_id not in (select id from"),
            (DEALING, "unnest(%s::uuid[], %s::int[]))", "unnest(%s::uuid[], %s::int[]) passed(id, version))"),
        ),
        ("tests/projections/test_claim_dispenser.py::test_what_was_passed_over_comes_again_when_it_has_moved_on",),
    ),
    # ── the wire ────────────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "a body that broke off is no request",
        "wire repeat",
        (("api/decoding.py", "if whole and not whole():", "if False:"),),
        (f"{SOCKETS}test_a_body_that_breaks_off_is_no_body", CHAOS),
    ),
    Mutation(
        "headers and bodies have a deadline",
        "wire",
        ((CONNECTION, "self._deadline = self.worker.loop.call_later(seconds, self._end, 408, TOO_SLOW)", "pass"),),
        (
            f"{SOCKETS}test_the_slow_are_told_so_and_others_are_served_meanwhile",
            f"{SHUTDOWN}test_under_load_each_request_is_answered_or_not_recorded",
        ),
    ),
    Mutation(
        "a deadline ends with what it was for",
        "wire",
        ((CONNECTION, "            self._deadline.cancel()\n", ""),),
        (f"{SOCKETS}test_a_deadline_that_was_kept_cuts_nobody_off",),
    ),
    Mutation(
        "a request that is not whole when the server ends has seconds to become so",
        "wire",
        ((CONNECTION, "            connection.finish()\n", "            pass\n"),),
        (f"{SHUTDOWN}test_under_load_each_request_is_answered_or_not_recorded",),
    ),
    Mutation(
        "a server that ends answers what it has accepted",
        "wire",
        (
            (
                CONNECTION,
                "        await super()._shutdown()\n",
                "        self._quick_shutdown = True\n        await super()._shutdown()\n",
            ),
        ),
        (f"{SHUTDOWN}test_under_load_each_request_is_answered_or_not_recorded",),
    ),
    Mutation(
        "one connection too many is told to come again",
        "wire",
        ((CONNECTION, "if self.worker.nr_conns > MOST_CONNECTIONS:", "if False:"),),
        (f"{SOCKETS}test_one_connection_too_many_is_told_so",),
    ),
    Mutation(
        "headers of a later request have a deadline of their own, and not that of an idle connection",
        "wire",
        ((CONNECTION, "            self._within(HEADER_SECONDS)\n\n    def _arm", "            pass\n\n    def _arm"),),
        (f"{SOCKETS}test_a_later_request_that_comes_slowly_is_told_so",),
    ),
    Mutation(
        "where many are connected, those make room that were idle longest",
        "wire",
        ((CONNECTION, "            self.worker.make_room()", "            pass"),),
        (f"{SOCKETS}test_idle_connections_make_room_where_there_are_many",),
    ),
    Mutation(
        "a process with more connections than another leaves a new one to it",
        "wire",
        (("api/accepting.py", "        if self._leave():", "        if False:"),),
        (
            f"{SOCKETS}test_each_process_gets_its_share_of_the_connections",
            "tests/api/test_accepting.py::test_who_has_more_leaves_a_connection_to_others",
        ),
    ),
    Mutation(
        "HTTP/1.1 has a Host, and chunked is the only coding",
        "wire",
        ((CONNECTION, "        demand(parsed)\n", ""),),
        (
            f"{SOCKETS}test_what_is_no_request_is_a_problem_and_ends_the_connection[no Host]",
            f"{SOCKETS}test_what_is_no_request_is_a_problem_and_ends_the_connection[gzip and chunked]",
            f"{SOCKETS}test_old_and_rare_ways_to_ask_are_answered",
        ),
    ),
    Mutation(
        "two idempotency keys are none",
        "wire",
        ((CONNECTION, 'parser.RFC9110_5_3_SINGLETON_FIELDS |= {b"idempotency-key"}', "pass"),),
        (f"{SOCKETS}test_what_is_no_request_is_a_problem_and_ends_the_connection[two keys for one request]",),
    ),
    Mutation(
        "an event that cannot be read is named, and no mistake of ours",
        "wire",
        (("api/problems.py", "    app.add_error_handler(NotReadable, _not_readable)\n", ""),),
        ("tests/api/test_errors.py::test_a_ticket_with_an_unreadable_event_is_a_problem_and_no_other_is",),
    ),
)


def applied(text: str, old: str, new: str) -> str:
    """The text with the mechanism taken out. Raises ValueError when it does not stand there exactly once."""
    if text.count(old) != 1:
        raise ValueError(f"stands there {text.count(old)} times: {old}")
    return text.replace(old, new)


def table() -> str:
    """The promises and the mutations as the tables of the page."""
    lines = ["| Promise | |", "| --- | --- |", *(f"| ({key}) | {promise} |" for key, promise in PROMISES.items()), ""]
    lines += ["| Taken out | Promise | Fails |", "| --- | --- | --- |"]
    for mutation in MUTATIONS:
        promises = ", ".join(f"({promise})" for promise in mutation.promises.split())
        tests = ", ".join(dict.fromkeys(f"`{name(test)}`" for test in mutation.tests))
        lines.append(f"| {mutation.mechanism} | {promises} | {tests} |")
    return "\n".join(lines) + "\n"


def name(test: str) -> str:
    """The function of a test, without its file and its parameters."""
    return test.partition("::")[2].partition("[")[0]


def copy() -> Path:
    """A copy of the tree, with neither history nor caches."""
    there = Path(tempfile.mkdtemp(prefix="deskledger-mutation-"))
    there.chmod(0o755)
    for part in COPIED:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, there / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, there / part)
    return there


def verdicts(there: Path, tests: tuple[str, ...], seconds: float = LONGEST_SECONDS) -> dict[str, tuple[str, str]]:
    """What became of each of the tests in a copy (PASSED, FAILED or ERROR) and why; nothing when time ran out."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-rA", *tests]
    path = {"PYTHONPATH": str(there), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = os.environ | path | {"COLUMNS": "250"}
    process = subprocess.Popen(
        command, cwd=there, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that pytest ends what it has started
        process.communicate()
        return {}
    found = re.findall(r"^(PASSED|FAILED|ERROR) (tests/\S+?::.+?)(?: - (.*))?$", said, re.MULTILINE)
    return {test: (verdict, reason) for verdict, test, reason in found}


def run(mutation: Mutation) -> tuple[list[str], str, float]:
    """Takes one mechanism out. Returns the named tests that do not fail, why the others do, and the seconds it took.

    A test that fails since the mutation is no program at all has shown nothing.
    """
    began, there = time.monotonic(), copy()
    try:
        for file, old, new in mutation.edits:
            (there / file).write_text(applied((there / file).read_text(), old, new))
        found = verdicts(there, mutation.tests)
    finally:
        shutil.rmtree(there)
    failed = {test: why for test, (verdict, why) in found.items() if verdict == "FAILED" and not BROKEN.match(why)}
    alive = [wanted for wanted in mutation.tests if not any(test.startswith(wanted) for test in failed)]
    return alive, "; ".join(dict.fromkeys(failed.values())), time.monotonic() - began


def main() -> int:
    """First everything as it is, which must pass; then each mutation, which must not. Returns 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mechanisms whose names hold all of these words")
    parser.add_argument("--table", action="store_true", help="print the table of what-each-test-guards.md, and end")
    options = parser.parse_args()
    if options.table:
        sys.stdout.write(table())
        return 0
    chosen = [one for one in MUTATIONS if all(word in one.mechanism for word in options.words)]
    if not chosen:
        parser.error(f"no mechanism has these words: {' '.join(options.words)}")
    began, there = time.monotonic(), copy()
    try:
        tests = tuple(dict.fromkeys(test for mutation in chosen for test in mutation.tests))
        found = verdicts(there, tests, LONGEST_OF_ALL_SECONDS)
    finally:
        shutil.rmtree(there)
    bad = {test: why for test, (verdict, why) in found.items() if verdict != "PASSED"}
    if bad or not found:
        print("the tests must pass as it is:", bad or "they took too long")
        return 1
    print(f"as it is, {len(found)} tests pass ({time.monotonic() - began:.0f} s)", flush=True)
    survived = 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for mutation, (alive, why, seconds) in zip(chosen, threads.map(run, chosen), strict=True):
            survived += bool(alive)
            tests = ", ".join(dict.fromkeys(map(name, mutation.tests)))
            print(f"{','.join(mutation.promises.split()):8} {seconds:4.0f} s  {mutation.mechanism}", flush=True)
            print(
                f"                 {'SURVIVES ' + ', '.join(alive) if alive else 'fails ' + tests}: {why}", flush=True
            )
    print(f"{len(chosen)} mutations, {survived} survive, {time.monotonic() - began:.0f} s in all")
    return min(survived, 1)


if __name__ == "__main__":
    sys.exit(main())
