"""A retention owner that shares no code with Lethe: a service that keeps messages and lets Lethe decide for how long.

It serves lethe.owner.v1.RetentionOwnerService; README.md beside it tells how it is started and how it joins.
"""

import argparse
import json
import re
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from lethe.deletion.v1 import deletion_pb2
from lethe.owner.v1 import owner_pb2, owner_service_pb2, owner_service_pb2_grpc

from store import (
    SUBJECT,
    ClocksDisagree,
    Cursor,
    CutoffTooLate,
    Key,
    Operation,
    OperationEnded,
    Rule,
    RuleChanged,
    Store,
)
from tokens import Caller, KeysUnavailable, TokenInvalid, TokenVerifier

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PARTIAL, COMPLETE = deletion_pb2.PROGRESS_PARTIAL, deletion_pb2.PROGRESS_COMPLETE
Code = grpc.StatusCode
MIN_SECONDS, MAX_SECONDS = -62_135_596_800, 253_402_300_799


class Refusal(Exception):
    """An answer other than OK: a code, a stable reason for programs and a sentence for people."""

    def __init__(self, code, reason, message, violations=(), retry_seconds=0, **metadata) -> None:
        super().__init__(message)
        self._code, self._message = code, message
        details = [error_details_pb2.ErrorInfo(reason=reason, domain="lethe", metadata=metadata)]
        if violations:
            fields = [
                error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                for field, description in violations
            ]
            details.append(error_details_pb2.BadRequest(field_violations=fields))
        if retry_seconds:
            details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=retry_seconds)))
        self._details = details

    def abort(self, context) -> None:
        status = status_pb2.Status(code=self._code.value[0], message=self._message)
        for detail in self._details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self._code, self._message)


def rpc(scope: str, for_tenant: bool = True):
    """Lets a method see verified callers only, and answers what it raises."""

    def decorate(method):
        @wraps(method)
        def serve(self, request, context):
            try:
                metadata = dict(context.invocation_metadata())
                caller = self._tokens.verify(metadata.get("authorization"))
                authorize(caller, scope, for_tenant)
                return method(self, request, caller)
            except Refusal as refusal:
                refusal.abort(context)
            except TokenInvalid:
                Refusal(Code.UNAUTHENTICATED, "TOKEN_INVALID", "The token is not valid here.").abort(context)
            except KeysUnavailable:
                unavailable("key set").abort(context)
            except sqlite3.OperationalError:
                unavailable("database").abort(context)

        return serve

    return decorate


def authorize(caller: Caller, scope: str, for_tenant: bool) -> None:
    if scope not in caller.scopes:
        raise denied("SCOPE_MISSING", f"This call needs the scope {scope}.", scope=scope)
    if caller.role != "service" or caller.service != "service:retention":
        raise denied("ROLE_TOO_LOW", "This call is RetentionService's.", role="service")
    if for_tenant and not caller.tenant:
        raise denied("TENANT_MISSING", "This token names no tenant.")
    if not for_tenant and caller.tenant:
        raise denied("TOKEN_MISMATCH", "The token is for one tenant and the call for none.", claim="tenant")


def denied(reason: str, message: str, **metadata: str) -> Refusal:
    return Refusal(Code.PERMISSION_DENIED, reason, message, **metadata)


def unavailable(what: str) -> Refusal:
    message = f"The {what} is unavailable; try again later."
    return Refusal(Code.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE", message, retry_seconds=1, dependency=what)


@contextmanager
def refusals(operation_id: str = ""):
    """Turns what the rule does not allow into the contract's words."""
    failed = Code.FAILED_PRECONDITION
    try:
        yield
    except CutoffTooLate:
        message = "The cutoff lies after this owner's clock less the window."
        raise Refusal(failed, "CUTOFF_TOO_LATE", message) from None
    except ClocksDisagree:
        message = "The cutoff lies more than a minute after latest_cutoff_time: two clocks disagree."
        raise Refusal(failed, "CLOCKS_DISAGREE", message) from None
    except OperationEnded:
        message = f"Operation {operation_id} has ended."
        raise Refusal(failed, "OPERATION_ENDED", message, operation_id=operation_id) from None
    except RuleChanged:
        message = f"Operation {operation_id} was begun with another rule."
        raise Refusal(Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", message, operation_id=operation_id) from None


def compare_with_token(claim: str, allowed: str | None, value: str) -> None:
    """A token is for one subject and one operation."""
    if allowed != value:
        raise denied("TOKEN_MISMATCH", f"The token's {claim} is not that of the call.", claim=claim)


def known_subject(name: str) -> None:
    """Asked last: who may not call for a subject is not told whether there is one."""
    if name != SUBJECT:
        raise Refusal(Code.NOT_FOUND, "SUBJECT_NOT_FOUND", f"There is no subject {name} here.", subject=name)


class Fields:
    """Checks a request's fields and reports all that are wrong together."""

    def __init__(self) -> None:
        self._violations: list[tuple[str, str]] = []

    def refuse(self, field: str, description: str) -> None:
        self._violations.append((field, description))

    def integer(self, field: str, value: int, least: int, most: int) -> int:
        if not least <= value <= most:
            self.refuse(field, f"must be a whole number from {least} to {most}")
        return value

    def page_size(self, value: int, most: int) -> int:
        if value < 0:
            self.refuse("page_size", "must not be negative")
        return min(value, most) or most

    def subject(self, field: str, value: str) -> None:
        if not value:
            self.refuse(field, "is required")

    def operation_id(self, value: str) -> str:
        if not UUID.fullmatch(value.lower()):
            self.refuse("operation_id", "must be a UUID")
        return value.lower()

    def deadline(self, request) -> float:
        """When the call must come to its end, by the monotonic clock."""
        seconds = 10.0
        if request.HasField("time_budget"):
            seconds = request.time_budget.seconds + request.time_budget.nanos / 1e9
            if not 0.1 <= seconds <= 60:
                self.refuse("time_budget", "must be from 100 ms to 60 s")
        return time.monotonic() + seconds

    def cursor(self, value: bytes) -> Cursor:
        if not value:
            return Cursor()
        try:
            undated, instant, id = json.loads(value)
            if type(undated) is bool and type(instant) is int and abs(instant) <= 2**63 - 1 and type(id) is str:
                return Cursor(Key(instant, id), undated)
        except (TypeError, ValueError):
            pass
        self.refuse("cursor", "must be a cursor that this owner gave")
        return Cursor()

    def instant(self, field: str, value: Timestamp) -> int:
        """Microseconds. What is finer is cut off, so that a cutoff takes no row more."""
        if not (MIN_SECONDS <= value.seconds <= MAX_SECONDS and 0 <= value.nanos < 1_000_000_000):
            self.refuse(field, "must be between the years 1 and 9999")
            return 0
        return value.ToMicroseconds()

    def rule(self, rule: owner_pb2.Rule) -> Rule:
        self.subject("rule.subject", rule.subject)
        if not rule.HasField("latest_cutoff_time"):
            self.refuse("rule.latest_cutoff_time", "is required")
        self.integer("rule.retention_days", rule.retention_days, 1, 36_500)
        self.integer("rule.min_to_keep", rule.min_to_keep, 0, 1_000_000_000)
        if rule.HasField("max_rows"):
            self.integer("rule.max_rows", rule.max_rows, 0, 2**63 - 1)
        if rule.HasField("stale_after_days"):  # Messages are never unfinished: checked, and no more.
            self.integer("rule.stale_after_days", rule.stale_after_days, 0, 36_500)
        return Rule(
            days=rule.retention_days,
            cutoff=self.instant("rule.cutoff_time", rule.cutoff_time) if rule.HasField("cutoff_time") else None,
            latest_cutoff=self.instant("rule.latest_cutoff_time", rule.latest_cutoff_time),
            min_to_keep=rule.min_to_keep,
            max_rows=rule.max_rows if rule.HasField("max_rows") else None,
        )

    def done(self) -> None:
        if self._violations:
            message = "; ".join(f"{field} {description}" for field, description in self._violations) + "."
            raise Refusal(Code.INVALID_ARGUMENT, "FIELD_INVALID", message, self._violations)


class RetentionOwner(owner_service_pb2_grpc.RetentionOwnerServiceServicer):
    def __init__(self, store: Store, tokens: TokenVerifier) -> None:
        self._store = store
        self._tokens = tokens

    def _same_data(self, data_id: str) -> None:
        """Refuses a call that is about another data set than the store has."""
        if data_id and data_id != self._store.data_id():
            message = "This owner holds another data set by now."
            raise Refusal(Code.FAILED_PRECONDITION, "OWNER_CHANGED", message)

    @rpc("owner:read", for_tenant=False)
    def ListSubjects(self, request, caller):
        fields = Fields()
        fields.page_size(request.page_size, 200)
        if request.page_token:
            fields.refuse("page_token", "must be a token that this list gave")
        fields.done()
        subject = owner_pb2.Subject(
            name=SUBJECT,
            resource_type="message",
            dependent_types=["attachment"],
            age_of="messages.sent_at",
            has_floor=True,
        )
        return owner_service_pb2.ListSubjectsResponse(data_id=self._store.data_id(), contract=1, subjects=[subject])

    @rpc("owner:read", for_tenant=False)
    def ListTenants(self, request, caller):
        fields = Fields()
        fields.subject("subject", request.subject)
        size = fields.page_size(request.page_size, 1_000)
        fields.done()
        known_subject(request.subject)
        # One more than the page has tells whether another one follows. The last tenant is the token of the next page.
        tenants = self._store.tenants(request.page_token, size + 1)
        page = tenants[:size]
        token = page[-1] if len(tenants) > size else ""
        return owner_service_pb2.ListTenantsResponse(tenant_ids=page, next_page_token=token)

    @rpc("owner:count")
    def Count(self, request, caller):
        fields = Fields()
        rule = fields.rule(request.rule)
        cursor = fields.cursor(request.cursor)
        up_to = fields.integer("up_to", request.up_to, 0, 2**63 - 1)
        deadline = fields.deadline(request)
        fields.done()
        compare_with_token("subject_name", caller.subject, request.rule.subject)
        known_subject(request.rule.subject)
        self._same_data(request.data_id)
        with refusals():
            counts = self._store.count(caller.tenant, rule, cursor, up_to, deadline)
        return owner_service_pb2.CountResponse(
            progress=PARTIAL if counts.cursor else COMPLETE,
            cursor=to_bytes(counts.cursor),
            expired_count=counts.expired,
            remaining_count=counts.remaining,
            undated_count=counts.undated,
            cutoff_time=to_timestamp(counts.cutoff),
        )

    @rpc("owner:purge")
    def Purge(self, request, caller):
        fields = Fields()
        operation_id = fields.operation_id(request.operation_id)
        rule = fields.rule(request.rule)
        limit = fields.integer("limit", request.limit, 0, 100_000) or 10_000
        deadline = fields.deadline(request)
        fields.done()
        compare_with_token("subject_name", caller.subject, request.rule.subject)
        compare_with_token("operation_id", caller.operation_id, operation_id)
        known_subject(request.rule.subject)
        self._same_data(request.data_id)
        with refusals(operation_id):
            operation = self._store.purge(caller.tenant, operation_id, rule, limit, deadline)
        return owner_service_pb2.PurgeResponse(
            progress=COMPLETE if operation.complete else PARTIAL,
            resource_counts=to_counts(operation),
            cutoff_time=to_timestamp(operation.cutoff),
        )

    @rpc("owner:purge")
    def End(self, request, caller):
        fields = Fields()
        operation_id = fields.operation_id(request.operation_id)
        fields.subject("subject", request.subject)
        cursor = fields.cursor(request.cursor)
        deadline = fields.deadline(request)
        fields.done()
        compare_with_token("subject_name", caller.subject, request.subject)
        compare_with_token("operation_id", caller.operation_id, operation_id)
        known_subject(request.subject)
        self._same_data(request.data_id)
        operation = self._store.end(caller.tenant, operation_id, cursor, deadline)
        return owner_service_pb2.EndResponse(
            progress=COMPLETE if operation.complete else PARTIAL,
            cursor=to_bytes(operation.cursor),
            resource_counts=to_counts(operation),
            cutoff_time=to_timestamp(operation.cutoff),
        )


def to_bytes(cursor: Cursor | None) -> bytes:
    return json.dumps([cursor.undated, *cursor.key]).encode() if cursor else b""


def to_timestamp(micros: int | None) -> Timestamp | None:
    if micros is None:
        return None
    timestamp = Timestamp()
    timestamp.FromMicroseconds(micros)
    return timestamp


def to_counts(operation: Operation) -> list[deletion_pb2.ResourceCount]:
    """The sums of an operation; nothing for one that never began."""
    if operation.cutoff is None:
        return []
    return [
        deletion_pb2.ResourceCount(resource_type=type, found=deleted + left, deleted=deleted, left=left)
        for type, deleted, left in (
            ("message", operation.messages, operation.left),
            ("attachment", operation.attachments, 0),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:7410", help="host:port to serve on; port 0 takes a free one")
    parser.add_argument("--store", required=True, help="the SQLite file; made when it is not there")
    parser.add_argument("--jwks", required=True, help="file or URL of the key set with RetentionService's public key")
    parser.add_argument("--issuer", default="lethe", help="the tokens' issuer")
    parser.add_argument("--name", default="mail", help="this owner's name in LETHE_RETENTION_OWNERS")
    options = parser.parse_args()

    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    owner = RetentionOwner(Store(options.store), TokenVerifier(options.jwks, options.issuer, options.name))
    owner_service_pb2_grpc.add_RetentionOwnerServiceServicer_to_server(owner, server)
    port = server.add_insecure_port(options.address)
    server.start()
    # Calls that were accepted may end.
    signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=10))
    signal.signal(signal.SIGINT, lambda *_: server.stop(grace=10))
    print(f"serving owner {options.name} on port {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
