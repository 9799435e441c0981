"""What the service keeps, and the rule by which rows leave it.

SQLite stands for whatever database you have. Three things carry over to any of them: an index on (tenant, instant,
id), one row for each operation whose sums change in the transaction that removes the rows, and cutoffs made by the
clock of the database. (SQLite runs in this process, so its clock is the process's.)
"""

import json
import sqlite3
import time
import uuid
from bisect import bisect_left
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Iterator, NamedTuple

SCHEMA = """
create table if not exists messages (
  tenant text not null,
  sent_at integer,            -- microseconds since 1970 UTC; null: not sent yet
  id text not null check (id <> ''),
  body text not null default '',
  primary key (tenant, id)
) strict;
-- Serves every statement below: a tenant's rows by age, with the id to tell equal instants apart.
create index if not exists messages_by_age on messages (tenant, sent_at, id);

create table if not exists attachments (
  tenant text not null,
  message_id text not null,
  name text not null,
  primary key (tenant, message_id, name),
  foreign key (tenant, message_id) references messages (tenant, id)
) strict;

create table if not exists retention_operations (
  tenant text not null,
  operation_id text not null,
  subject text not null,
  rule text,                  -- null: End came before any Purge
  cutoff integer,
  cutoff_given integer not null default 0,
  messages integer not null default 0,
  attachments integer not null default 0,
  ended_at integer,
  primary key (tenant, operation_id, subject)
) strict;

create table if not exists retention_data (one integer primary key check (one = 1), data_id text not null) strict;
"""

SUBJECT = "messages"
MICROS_A_DAY = 86_400_000_000
# Rows in one transaction, and rows looked at between two looks at the clock.
BATCH = 500
SLICE = 5_000
# An ended operation is remembered for longer than any call of it can be late.
REMEMBER = 400 * MICROS_A_DAY


class Key(NamedTuple):
    """A row's place in the order of age. Ids are not empty, so Key(x, '') lies before every row of instant x."""

    instant: int
    id: str


OLDEST = Key(-(2**63), "")


@dataclass(frozen=True)
class Rule:
    """What may go. Instants are microseconds since 1970."""

    days: int
    cutoff: int | None
    latest_cutoff: int
    min_to_keep: int
    max_rows: int | None


@dataclass(frozen=True)
class Cursor:
    """The last row that a walk has seen. Rows without an instant come after all others."""

    key: Key = OLDEST
    undated: bool = False


@dataclass(frozen=True)
class Counts:
    expired: int
    remaining: int
    undated: int
    cutoff: int
    cursor: Cursor | None  # None: the walk is over


@dataclass(frozen=True)
class Operation:
    """The sums of all calls of an operation."""

    messages: int = 0
    attachments: int = 0
    cutoff: int | None = None
    left: int = 0
    cursor: Cursor | None = None
    complete: bool = True


class CutoffTooLate(Exception):
    """The cutoff lies after this clock less the window."""


class ClocksDisagree(Exception):
    """The cutoff lies more than a minute after the latest one that the caller thinks possible."""


class OperationEnded(Exception):
    """The operation was closed by End."""


class RuleChanged(Exception):
    """The operation was begun with another rule."""


class Store:
    def __init__(self, path: str) -> None:
        self._path = path
        with self._connection() as db:
            db.execute("pragma journal_mode = wal")
            db.executescript(SCHEMA)
            db.execute("insert or ignore into retention_data values (1, ?)", (str(uuid.uuid4()),))

    def data_id(self) -> str:
        """Made with the database, so that another database has another one."""
        with self._connection() as db:
            return db.execute("select data_id from retention_data").fetchone()[0]

    def tenants(self, after: str, limit: int) -> list[str]:
        """Tenants with rows, after this one. Each is found by one look into the index, however many rows it has."""
        found: list[str] = []
        with self._connection() as db:
            while len(found) < limit:
                row = db.execute("select min(tenant) from messages where tenant > ?", (after,)).fetchone()
                if row[0] is None:
                    break
                after = row[0]
                found.append(after)
        return found

    def count(self, tenant: str, rule: Rule, cursor: Cursor, up_to: int, deadline: float) -> Counts:
        """Walks the tenant's rows, oldest first, until `up_to` were seen or the deadline has passed."""
        cutoff = _cutoff(rule)
        with self._connection() as db:
            return _walk(db, tenant, cutoff, rule.min_to_keep, cursor, up_to, deadline)

    def purge(self, tenant: str, operation_id: str, rule: Rule, limit: int, deadline: float) -> Operation:
        """Removes batches until nothing of the rule is left, `limit` or `max_rows` is reached, or time is up."""
        removed = 0
        while True:
            with self._connection() as db, _transaction(db):
                operation = _begin(db, tenant, operation_id, rule)
                room = min(BATCH, limit - removed)
                if rule.max_rows is not None:
                    room = min(room, rule.max_rows - operation.messages)
                end = _first_kept(db, tenant, operation.cutoff, rule.min_to_keep)
                messages, attachments = _remove(db, tenant, end, room) if room > 0 else (0, 0)
                db.execute(
                    "update retention_operations set messages = messages + ?, attachments = attachments + ?"
                    " where (tenant, operation_id, subject) = (?, ?, ?)",
                    (messages, attachments, tenant, operation_id, SUBJECT),
                )
                operation = replace(
                    operation,
                    messages=operation.messages + messages,
                    attachments=operation.attachments + attachments,
                )
                is_spent = rule.max_rows is not None and operation.messages >= rule.max_rows
                complete = is_spent or not _slice(db, tenant, OLDEST, end, 1)
            removed += messages
            if complete or removed >= limit or time.monotonic() >= deadline:
                return replace(operation, complete=complete)

    def end(self, tenant: str, operation_id: str, cursor: Cursor, deadline: float) -> Operation:
        """Closes the operation, also one that never came, and counts what its rule has left behind."""
        with self._connection() as db, _transaction(db):
            now = _now()
            db.execute(
                "insert into retention_operations (tenant, operation_id, subject, ended_at) values (?, ?, ?, ?)"
                " on conflict do update set ended_at = coalesce(ended_at, excluded.ended_at)",
                (tenant, operation_id, SUBJECT, now),
            )
            db.execute("delete from retention_operations where ended_at < ?", (now - REMEMBER,))
            rule, cutoff, _, messages, attachments, _ = _operation(db, tenant, operation_id)
        ended = Operation(messages, attachments, cutoff)
        if rule is None:
            return ended
        with self._connection() as db:
            # up_to 0: only what the rule would take.
            counts = _walk(db, tenant, cutoff, json.loads(rule)["min_to_keep"], cursor, 0, deadline)
        return replace(ended, left=counts.expired, cursor=counts.cursor, complete=counts.cursor is None)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # Autocommit: transactions are begun by name. A connection of its own for each call, as threads need.
        db = sqlite3.connect(self._path, timeout=5, isolation_level=None)
        try:
            db.execute("pragma foreign_keys = on")
            yield db
        finally:
            db.close()


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    # `immediate` takes the lock to write at once: two calls of one operation come one after the other.
    db.execute("begin immediate")
    try:
        yield
    except BaseException:
        db.execute("rollback")
        raise
    db.execute("commit")


def _now() -> int:
    return time.time_ns() // 1_000


def _cutoff(rule: Rule) -> int:
    latest = _now() - rule.days * MICROS_A_DAY
    cutoff = latest if rule.cutoff is None else rule.cutoff
    if cutoff > latest:
        raise CutoffTooLate
    _compare_clocks(cutoff, rule)
    return cutoff


def _compare_clocks(cutoff: int, rule: Rule) -> None:
    if cutoff > rule.latest_cutoff + 60_000_000:
        raise ClocksDisagree


def _operation(db: sqlite3.Connection, tenant: str, operation_id: str) -> tuple | None:
    return db.execute(
        "select rule, cutoff, cutoff_given, messages, attachments, ended_at from retention_operations"
        " where (tenant, operation_id, subject) = (?, ?, ?)",
        (tenant, operation_id, SUBJECT),
    ).fetchone()


def _begin(db: sqlite3.Connection, tenant: str, operation_id: str, rule: Rule) -> Operation:
    """The operation as it stands. The first call keeps its rule and its cutoff."""
    # latest_cutoff is the caller's clock and no part of the rule.
    text = json.dumps({"days": rule.days, "min_to_keep": rule.min_to_keep, "max_rows": rule.max_rows})
    known = _operation(db, tenant, operation_id)
    if known is None:
        cutoff = _cutoff(rule)
        db.execute(
            "insert into retention_operations (tenant, operation_id, subject, rule, cutoff, cutoff_given)"
            " values (?, ?, ?, ?, ?, ?)",
            (tenant, operation_id, SUBJECT, text, cutoff, rule.cutoff is not None),
        )
        return Operation(cutoff=cutoff)
    begun_with, cutoff, cutoff_given, messages, attachments, ended_at = known
    if ended_at is not None:
        raise OperationEnded
    # A caller may go on with the cutoff that it was answered, and not leave out one that it gave.
    is_same_cutoff = not cutoff_given if rule.cutoff is None else rule.cutoff == cutoff
    if begun_with != text or not is_same_cutoff:
        raise RuleChanged
    _compare_clocks(cutoff, rule)
    return Operation(messages, attachments, cutoff)


def _first_kept(db: sqlite3.Connection, tenant: str, cutoff: int, min_to_keep: int) -> Key:
    """Every dated row before this key is expired: it is older than the cutoff and not among the newest."""
    if min_to_keep == 0:
        return Key(cutoff, "")
    newest = db.execute(
        "select sent_at, id from messages where tenant = ? and sent_at is not null"
        " order by sent_at desc, id desc limit 1 offset ?",
        (tenant, min_to_keep - 1),
    ).fetchone()
    # Fewer rows than are to stay: none goes.
    return min(Key(cutoff, ""), Key(*newest)) if newest else OLDEST


def _slice(db: sqlite3.Connection, tenant: str, after: Key, before: Key | None, limit: int) -> list[Key]:
    """Keys of dated rows, oldest first."""
    bound = "" if before is None else " and (sent_at, id) < (:before_at, :before_id)"
    rows = db.execute(
        "select sent_at, id from messages where tenant = :tenant and (sent_at, id) > (:after_at, :after_id)"
        f"{bound} order by sent_at, id limit :limit",
        {
            "tenant": tenant,
            "after_at": after.instant,
            "after_id": after.id,
            "before_at": before.instant if before else None,
            "before_id": before.id if before else None,
            "limit": limit,
        },
    )
    return [Key(*row) for row in rows]


def _remove(db: sqlite3.Connection, tenant: str, end: Key, limit: int) -> tuple[int, int]:
    """Removes up to `limit` rows before `end`, oldest first, and their attachments; how many of each."""
    chosen = _slice(db, tenant, OLDEST, end, limit)
    if not chosen:
        return 0, 0
    upper = {"tenant": tenant, "at": chosen[-1].instant, "id": chosen[-1].id}
    expired = "tenant = :tenant and (sent_at, id) <= (:at, :id)"
    attachments = db.execute(
        f"delete from attachments where tenant = :tenant and message_id in (select id from messages where {expired})",
        upper,
    ).rowcount
    messages = db.execute(f"delete from messages where {expired}", upper).rowcount
    return messages, attachments


def _walk(
    db: sqlite3.Connection, tenant: str, cutoff: int, min_to_keep: int, cursor: Cursor, up_to: int, deadline: float
) -> Counts:
    """Counts the expired rows, then others until `up_to` rows were seen in all."""
    expired = remaining = undated = 0
    end = _first_kept(db, tenant, cutoff, min_to_keep)
    at: Cursor | None = cursor
    while at is not None:
        if at.undated:
            ids = db.execute(
                "select id from messages where tenant = ? and sent_at is null and id > ? order by id limit ?",
                (tenant, at.key.id, SLICE),
            )
            keys = [Key(0, id) for (id,) in ids]
            gone = 0
        else:
            keys = _slice(db, tenant, at.key, None, SLICE)
            gone = bisect_left(keys, end)
        expired += gone
        # What is beyond up_to is not counted.
        kept = min(len(keys) - gone, max(0, up_to - expired - remaining))
        remaining += kept
        undated += kept if at.undated else 0
        if len(keys) == SLICE:
            following = Cursor(keys[-1], at.undated)
        else:
            following = None if at.undated else Cursor(undated=True)
        # Where the slice was not expired to its end, no expired row lies behind it.
        at = None if gone < SLICE and expired + remaining >= up_to else following
        if time.monotonic() >= deadline:
            break
    return Counts(expired, remaining, undated, cutoff, at)
