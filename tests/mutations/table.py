"""Which mechanisms are taken out, one by one, and which tests must fail then.

A row names no file: its text stands in the four packages exactly once, and its tests are found by their names. So files
can be moved and names changed. Blanks and line breaks in a text mean nothing; `…` stands for any Python name, and in
what is put in its place, `…1` is the first of these names.
"""

from typing import NamedTuple

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
    "feed": "a reader of the feed gets every event once, in order, and none twice",
}

# What is at work according to the connections, which know nothing of prepared transactions.
_CONNECTED = "coalesce((select min(backend_xid::text::int8)::text::xid8 from pg_stat_activity), pg_current_xact_id())"
# The position that a connection has given last, in its own memory.
_LAST = "coalesce(nullif(current_setting('test.last', true), ''), '0')::bigint"
_KEEP = "set_config('test.last', (st.next_position + found.count - 1)::text, false)"
_LOCK_FIRST = """with …2.transaction():
        …2.execute("select from seal_state for update")
        …1 = …2.execute(…3, {"batch": …4})"""
_EACH = "zip(…1, {}, strict=True):\n                if {}:"


class Mutation(NamedTuple):
    """A mechanism, the promises that stand on it, how to take it out, and the tests that must fail then."""

    mechanism: str
    promises: str
    edits: dict[str, str]  # a text of the product, and what is put in its place
    tests: tuple[str, ...]  # functions that must fail in a case, or in the [case] that is named


MUTATIONS = (
    # ── the sealed log ──────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "holes: numbers below the highest one are remembered until they are seen",
        "2 3 4",
        {"int8range(st.hi, found.top, '(]')": "'empty'::int8range"},
        ("test_a_held_transaction_is_sealed_later_and_stalls_nobody", "test_what_was_read_never_changes"),
    ),
    Mutation(
        "fence: a hole is dropped only when all who could own it have ended",
        "3 4",
        {
            "not st.overtaken and st.oldest >= st.fence": "not st.overtaken",
            "(st.overtaken or st.fence is null or st.oldest >= st.fence)": "true",
        },
        (
            "test_a_held_transaction_is_sealed_later_and_stalls_nobody",
            "test_rolled_back_numbers_stay_holes_until_the_fence_proves_them_dead",
        ),
    ),
    Mutation(
        "a fence holds for the numbers up to where it was set, and no further",
        "3 4",
        {"int8range(st.fence_hi, null, '()')": "'empty'::int8range"},
        ("test_a_hole_above_the_fence_outlives_the_holes_below_it",),
    ),
    Mutation(
        "a full pass proves no hole dead",
        "3 4",
        {">= st.fence and found.complete": ">= st.fence"},
        ("test_a_pass_takes_late_events_first_and_no_more_than_its_batch",),
    ),
    Mutation(
        "who is at work is asked of the snapshot, which knows prepared transactions, and not of the connections",
        "3 8",
        {"pg_snapshot_xmin(pg_current_snapshot())": _CONNECTED},
        ("test_a_prepared_transaction_stalls_nothing",),
    ),
    Mutation(
        "nothing waits until nobody else is at work",
        "4 8",
        {
            "where ord > (select hi from st)": "where (select oldest from st) = pg_current_xact_id()"
            " and ord > (select hi from st)"
        },
        (
            "test_a_held_transaction_is_sealed_later_and_stalls_nobody",
            "test_a_long_transaction_in_another_database_stalls_nothing",
            "test_a_prepared_transaction_stalls_nothing",
        ),
    ),
    Mutation(
        "one statement: the sealer has no transaction ID before its snapshot",
        "3 4",
        {'… = ….execute(…, {"batch": …})': _LOCK_FIRST},
        ("test_the_fence_is_drawn_after_the_snapshot",),
    ),
    Mutation(
        "the row lock of the sealer",
        "1 6",
        {"from seal_state for update)": "from seal_state)"},
        ("test_the_second_of_two_sealers_goes_on_from_the_first",),
    ),
    Mutation(
        "a sealer that was overtaken while it waited draws no fence",
        "3 6",
        {"not pg_visible_in_snapshot(pass_xid, pg_current_snapshot())": "false"},
        ("test_an_overtaken_sealer_draws_no_fence",),
    ),
    Mutation(
        "positions follow the numbers",
        "1 5",
        {"row_number() over (order by ord)": "row_number() over (order by ord desc)"},
        ("test_positions_are_contiguous_from_one", "test_an_acknowledged_event_comes_before_one_sent_after_it"),
    ),
    Mutation(
        "the next position lies in the database and not in the memory of a sealer",
        "1 7",
        {
            "st.next_position + row_number() over (order by ord) - 1": f"{_LAST} + row_number() over (order by ord)",
            "returning found.count": f"returning found.count, {_KEEP}",
        },
        ("test_a_killed_sealer_leaves_whole_passes",),
    ),
    Mutation(
        "the log is on disk when a pass has ended",
        "2 7",
        {"create table log (": "create unlogged table log ("},
        ("test_sealing_resumes_after_a_crash_of_the_database",),
    ),
    Mutation(
        "a writer has its transaction ID before its number",
        "3",
        {"xid as materialized (select pg_current_xact_id())": "xid as materialized (select 1)"},
        ("test_a_writer_has_its_xid_before_its_number",),
    ),
    Mutation(
        "an event has one place in the log, and a place one event: both are unique",
        "1 3",
        {
            "ord bigint not null unique": "ord bigint not null",
            "create unique index events_by_ord": "create index events_by_ord",
            "position bigint primary key": "position bigint not null",
        },
        tuple(f"test_nothing_is_given_twice[the {what}]" for what in ("event", "number", "position")),
    ),
    Mutation(
        "history is insert-only",
        "2",
        {
            f"before update or delete or truncate on {table}": f"before truncate on {table}"
            for table in ("events", "log")
        },
        tuple(f"test_history_is_insert_only[delete from {{}}-{table}]" for table in ("events", "log")),
    ),
    # ── the append, and combining ───────────────────────────────────────────────────────────────────────────
    Mutation(
        "the first event of a command decides for the others",
        "a",
        {"from given join heads using (stream_id)": "from given"},
        ("test_a_command_that_comes_second_leaves_nothing",),
    ),
    Mutation(
        "a version of a stream is there once: it is the primary key",
        "a e",
        {
            "primary key (stream_id, version)\n);": "unique (stream_id, version, ord)\n);",
            "on conflict (stream_id, version) do nothing": "on conflict do nothing",
        },
        ("test_nothing_is_given_twice[the version]", "test_two_processes_on_the_same_tickets"),
    ),
    Mutation(
        "the events of a command draw their numbers in the order of their versions",
        "5",
        {"order by stream_id, version) sorted": "order by stream_id, version desc) sorted"},
        ("test_all_events_of_a_command_are_recorded_in_order",),
    ),
    Mutation(
        "all write their streams in one order",
        "b",
        {
            "order by stream_id) sorted": ") sorted",
            "sorted(…, key=…)  # one order for all": "list(…1)  # one order for all",
        },
        ("test_batches_in_opposite_order_do_not_deadlock",),
    ),
    Mutation(
        "a batch that the database refuses is repeated command by command",
        "c",
        {"if len(…) == 1:  #": "if …1:  #"},
        ("test_a_bad_command_harms_only_itself",),
    ),
    Mutation(
        "what may have been recorded is not tried again",
        "c",
        {"except … as …:  # it may have been recorded": "except ZeroDivisionError as …2:  #"},
        ("test_a_batch_that_broke_off_is_not_tried_again",),
    ),
    Mutation(
        "each request has the answer to what it wanted",
        "d",
        {"zip(…, …, strict=True): if not ….done():": _EACH.format("reversed(…2)", "not …3.done()")},
        ("test_each_want_gets_its_own_answer", "test_a_command_that_lost_leaves_the_rest_of_its_batch"),
    ),
    Mutation(
        "who went away during the round trip takes nobody along",
        "d",
        {"zip(…, …, strict=True): if not ….done():": _EACH.format("…2", "…3")},
        ("test_who_goes_away_during_the_trip_takes_nobody_along",),
    ),
    Mutation(
        "commands on one stream take turns",
        "e",
        {"async with …(….ticket_id):": "async with asyncio.Lock():"},
        ("test_many_commands_on_one_ticket_all_succeed",),
    ),
    Mutation(
        "a command that names a version is decided on that version only",
        "e",
        {"is not None and … != ….version:": "is not None and …1 < 0:"},
        ("test_one_of_many_commands_with_one_version_wins",),
    ),
    Mutation(
        "the database refuses a number that a ticket has already",
        "number",
        {"create unique index events_by_ticket_number": "create index events_by_ticket_number"},
        ("test_numbers_given_before_do_not_stop_a_batch", "test_a_number_that_was_given_before_is_not_given_again"),
    ),
    # ── repeated commands ───────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "a known key stops its command",
        "repeat",
        {"and stream_id not in (select stream_id from done)": ""},
        ("test_a_key_that_is_known_stops_its_own_command_only",),
    ),
    Mutation(
        "of two that come at once under one key, the primary key lets one through",
        "repeat",
        {"primary key (principal, key)": "unique (principal, key, at, answer)"},
        ("test_who_comes_while_the_first_is_under_way_gets_its_answer",),
    ),
    Mutation(
        "a command that lost leaves no key",
        "repeat a",
        {"from kept join heads using (stream_id)": "from kept"},
        ("test_keys_are_recorded_for_the_winners_only",),
    ),
    # ── what reads ──────────────────────────────────────────────────────────────────────────────────────────
    Mutation(
        "a checkpoint is compared before it is set",
        "view",
        {"where name = any(%s) and position = %s": "where name = any(%s) and %s >= 0"},
        ("test_a_checkpoint_that_moved_undoes_the_batch",),
    ),
    Mutation(
        "free tickets are dealt out in the order of the queue",
        "claim",
        {"%s::uuid[], %s::int[])) order by rank,": "%s::uuid[], %s::int[])) order by rank desc,"},
        ("test_the_most_urgent_is_next_and_then_the_oldest",),
    ),
    Mutation(
        "nobody is sent away while somebody may still put a ticket down",
        "claim",
        {"if not self._held and not settled.is_set():": "if True:"},
        ("test_who_finds_all_in_other_hands_waits",),
    ),
    Mutation(
        "a page of the feed ends where its last row stands",
        "feed",
        {"[-1].position, True)": "[-1].position + 1, True)"},
        ("test_all_forms_tell_the_same", "test_who_hangs_up_anywhere_and_resumes_misses_nothing"),
    ),
)
