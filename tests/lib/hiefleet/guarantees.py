"""What the store must say afterwards, whatever happened meanwhile: one end each, order of each key, order of a queue."""

import collections
import dataclasses
import datetime

from .fleet import END_EVENTS


@dataclasses.dataclass
class Run:
    """A message and the end of its current run, as the tables have them."""
    id: str
    seq: int
    key: str
    priority: int
    received: datetime.datetime
    status: str  # None: it has no end
    attempt: int
    started: datetime.datetime
    ended: datetime.datetime
    worker: str


def runs(fleet, item_id):
    """All messages of an item in the order of their acceptance."""
    rows = fleet.sql(
        "select a.correlation_id::text, a.seq, a.ordering_key, a.priority, a.received_at, hie.status_word(e.status),"
        " e.attempt, e.started_at, e.at, e.worker"
        " from hie.accepted a left join lateral (select * from hie.ended x where x.correlation_id = a.correlation_id"
        " order by x.run desc limit 1) e on true where a.item = %s order by a.seq", item_id)
    return [Run(*row) for row in rows]


def check_one_end_each(fleet, item_id, ids):
    """Those that a sender saw acknowledged, and no others, are there, each with one end and one line in the audit."""
    ids = list(ids)
    assert len(set(ids)) == len(ids), f"{item_id}: an id was given twice"
    rows = fleet.sql("select e.correlation_id::text, count(*) from hie.ended e where e.item = %s group by 1", item_id)
    ends = dict(rows)
    lost = set(ids) - set(ends)
    assert not lost, f"{item_id}: {len(lost)} of {len(ids)} have no end: {sorted(lost)[:3]}"
    more = set(ends) - set(ids)
    assert not more, f"{item_id}: {len(more)} that nobody was told of: {sorted(more)[:3]}"
    twice = [id_ for id_, count in rows if count != 1]
    assert not twice, f"{item_id}: ended more than once: {twice[:3]}"
    audit = fleet.sql("select correlation_id::text, count(*) from hie.audit where item = %s and event = any(%s)"
                      " group by 1 having count(*) <> 1 limit 3", item_id, list(END_EVENTS))
    assert not audit, f"{item_id}: not one end in the audit: {audit}"


def check_ended_once(fleet, ids, status="completed"):
    """Each of these messages has one end, and that is it."""
    rows = fleet.sql("select correlation_id::text, count(*), min(event) from hie.audit where event = any(%s) and"
                     " correlation_id = any(%s::uuid[]) group by 1", list(END_EVENTS), list(ids))
    assert len(rows) == len(set(ids)), f"{len(set(ids)) - len(rows)} of {len(set(ids))} have no end"
    wrong = [row for row in rows if row[1:] != (1, status)]
    assert not wrong, wrong[:3]


def check_key_order(fleet, item_id, of=None):
    """Of each ordering key a message started once the one accepted before it had ended. `of`: a message's key where it is
    not the stored one."""
    last = {}
    for run in runs(fleet, item_id):
        key = of(run) if of else run.key
        before = last.get(key)
        assert run.status, f"{item_id}: {run.id} has no end"
        if before:
            assert run.started >= before.ended, (
                f"{item_id}, key {key}: seq {run.seq} ({run.id}, attempt {run.attempt}, {run.worker}) started at {run.started}, "
                f"seq {before.seq} ({before.id}, attempt {before.attempt}, {before.worker}) ended at {before.ended}")
        last[key] = run
    return len(last)


def in_order_of_start(fleet, item_id):
    return sorted(runs(fleet, item_id), key=lambda run: (run.started, run.ended))


def check_never_older(seen, what):
    """`seen`: (key, number) as a receiver got them. A number may come again, an older one never after a newer one."""
    newest = collections.defaultdict(lambda: -1)
    for at, (key, number) in enumerate(seen):
        assert number >= newest[key], f"{what}, key {key}: {number} came after {newest[key]} (request {at})"
        newest[key] = number
