import { fromBinary } from '@bufbuild/protobuf';
import { anyUnpack } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { StatusSchema } from '#gen/google/rpc/status_pb.ts';
import { DomainError, fieldsInvalid } from '#libs/kernel/domain-error.ts';
import { CODE_OF_KIND, toStatus } from './status.ts';

/** The status of an error with its details read, and what was logged for it. */
function told(error: unknown) {
  const logged: { error: unknown; incidentId: string }[] = [];
  const {
    code,
    details: message,
    metadata,
  } = toStatus(error, (cause, incidentId) => logged.push({ error: cause, incidentId }));
  const packed = metadata?.get('grpc-status-details-bin')[0];
  const status = fromBinary(StatusSchema, packed as Buffer);
  const find = <T>(read: (any: (typeof status.details)[number]) => T | undefined): T | undefined =>
    status.details.map(read).find((found) => found !== undefined);
  return {
    code: code as number as Code,
    message,
    status,
    info: find((any) => anyUnpack(any, ErrorInfoSchema)),
    badRequest: find((any) => anyUnpack(any, BadRequestSchema)),
    retry: find((any) => anyUnpack(any, RetryInfoSchema)),
    logged,
  };
}

test('every kind of error has a code of its own, and ErrorInfo with reason, domain and metadata', (t) => {
  t.is(new Set(Object.values(CODE_OF_KIND)).size, Object.keys(CODE_OF_KIND).length);
  for (const [kind, expected] of Object.entries(CODE_OF_KIND)) {
    const error = new DomainError(kind as keyof typeof CODE_OF_KIND, 'REASON', 'A sentence.', { run_id: 'r' });
    const { code, message, status, info, logged } = told(error);
    t.is(code, expected);
    t.is(message, 'A sentence.');
    t.is(status.code as Code, expected);
    t.is(status.message, 'A sentence.');
    t.like(info, { reason: 'REASON', domain: 'lethe', metadata: { run_id: 'r' } });
    t.deepEqual(logged, []);
  }
});

test('violations and the time to wait are details, and only where there are any', (t) => {
  const invalid = told(
    fieldsInvalid([
      { field: 'job_id', description: 'must be a UUID' },
      { field: 'page_size', description: 'must not be negative' },
    ]),
  );
  t.deepEqual(
    invalid.badRequest?.fieldViolations.map(({ field }) => field),
    ['job_id', 'page_size'],
  );
  t.is(invalid.retry, undefined);
  const busy = told(new DomainError('unavailable', 'BUSY', 'Busy.', {}, { retryAfterMs: 2_250 }));
  t.like(busy.retry?.retryDelay, { seconds: 2n, nanos: 250_000_000 });
  t.is(busy.badRequest, undefined);
});

test('a cause is never sent', (t) => {
  const cause = new Error('select secret from tenants');
  const { status, message } = told(new DomainError('unavailable', 'BUSY', 'Busy.', {}, { cause }));
  t.false(
    JSON.stringify([message, status.details.map(({ value }) => Buffer.from(value).toString())]).includes('secret'),
  );
});

test('a call that was cancelled or ran out of time is told as such and not logged as a failure of ours', (t) => {
  for (const code of [Code.Canceled, Code.DeadlineExceeded]) {
    const ended = told(new ConnectError('It ended.', code));
    t.is(ended.code, code);
    t.is(ended.message, 'It ended.');
    t.deepEqual(ended.logged, []);
  }
});

test("a peer's error that no use case has mapped becomes INTERNAL, with nothing of it", (t) => {
  const peer = new ConnectError('database of run at 10.0.0.7', Code.PermissionDenied);
  for (const error of [peer, new TypeError('x is not a function'), 'a text', undefined]) {
    const { code, message, info, logged } = told(error);
    t.is(code, Code.Internal);
    t.is(info?.reason, 'INTERNAL');
    t.is(logged.length, 1);
    t.is(logged[0]?.error, error);
    t.is(info?.metadata['incident_id'], logged[0]?.incidentId);
    t.is(message, `Something went wrong inside; it was logged as ${logged[0]?.incidentId}.`);
  }
});
