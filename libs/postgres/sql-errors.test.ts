import test from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { codeOf, DatabaseSilent, isUniqueViolation, toDomainError } from './sql-errors.ts';

const driverError = (code: string, more: object = {}): Error =>
  Object.assign(new Error('insert into secrets values (42)'), { code, ...more });

/** As Objection throws it. */
const wrapped = (native: Error): Error => Object.assign(new Error('wrapped'), { nativeError: native });

test('a lost race is ABORTED and says when to try again', (t) => {
  for (const code of ['40001', '40P01', '55P03']) {
    for (const error of [driverError(code), wrapped(driverError(code))]) {
      const mapped = toDomainError(error) as DomainError;
      t.like(mapped, { kind: 'aborted', reason: 'CONCURRENT_UPDATE', cause: error });
      t.true((mapped.retryAfterMs ?? 0) > 0);
    }
  }
});

test('a plan that a change of its table made stale is ABORTED, and no other lack of a feature is', (t) => {
  t.like(toDomainError(driverError('0A000', { routine: 'RevalidateCachedQuery' })), { reason: 'CONCURRENT_UPDATE' });
  const other = driverError('0A000', { routine: 'transformDeclareCursorStmt' });
  t.is(toDomainError(other), other);
});

test('a database that cannot answer is UNAVAILABLE, however that shows', (t) => {
  const errors = [
    ...['57014', '57P01', '57P02', '57P03', '53300', '53400', '08006', '08001'].map((code) => driverError(code)),
    ...['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EHOSTUNREACH'].map((code) =>
      driverError(code),
    ),
    driverError('55000', { severity: 'FATAL' }),
    new Error('Knex: Timeout acquiring a connection. The pool is probably full.'),
    new Error('Connection terminated unexpectedly'),
  ];
  for (const error of errors) {
    t.like(toDomainError(error), { kind: 'unavailable', reason: 'DEPENDENCY_UNAVAILABLE' }, error.message);
  }
});

test('a schema that is not as it should be is UNAVAILABLE and named; a row that a policy refuses is a defect', (t) => {
  const lost = ['3F000', '42P01', '42703', '42883'].map((code) => driverError(code));
  for (const error of [...lost, driverError('42501', { routine: 'aclcheck_error' })]) {
    const mapped = toDomainError(error) as DomainError;
    t.like(mapped, { kind: 'unavailable', metadata: { dependency: 'database', fault: 'SCHEMA' } });
    t.true((mapped.retryAfterMs ?? 0) > 0);
  }
  const refused = driverError('42501', { routine: 'ExecWithCheckOptions' });
  t.is(toDomainError(refused), refused);
});

test('each fault of the database is named, with a retry delay', (t) => {
  const faults = {
    READ_ONLY: [driverError('25006'), wrapped(driverError('25006'))],
    DISK_FULL: [driverError('53100')],
    OUT_OF_RESOURCES: [driverError('53200'), driverError('53400')],
    TOO_MANY_CONNECTIONS: [driverError('53300')],
    STARTING: [driverError('57P03')],
    CONNECTION_LOST: [
      ...['57P01', '57P02', '08000', '08003', '08006', '08P01', 'ECONNREFUSED', 'EAI_AGAIN'].map((code) =>
        driverError(code),
      ),
      new Error('Connection terminated unexpectedly'),
      new Error('Client has encountered a connection error and is not queryable'),
      new Error('Client was closed and is not queryable'),
    ],
    SILENT: [driverError('ETIMEDOUT'), new Error('timeout expired'), new DatabaseSilent('x')],
    REFUSED: [driverError('28P01'), driverError('28000'), driverError('3D000')],
  };
  for (const [fault, errors] of Object.entries(faults)) {
    for (const error of errors) {
      const mapped = toDomainError(error) as DomainError;
      t.like(mapped, {
        kind: 'unavailable',
        reason: 'DEPENDENCY_UNAVAILABLE',
        metadata: { dependency: 'database', fault },
      });
      t.truthy(mapped.retryAfterMs);
    }
  }
});

test('what a pooler refuses by itself is the same fault as when the database refuses it', (t) => {
  const faults = {
    REFUSED: [
      'password authentication failed',
      'SASL authentication failed',
      'no such user',
      'no such database: lethe_job',
      'unsupported startup parameter: statement_timeout',
      'unsupported startup parameter in options: search_path',
    ],
    TOO_MANY_CONNECTIONS: [
      'no more connections allowed (max_client_conn)',
      'client connections exceeded (max_db_client_connections)',
      'query_wait_timeout',
    ],
    CONNECTION_LOST: ['server login has been failing, cached error: connect failed (server_login_retry)'],
  };
  for (const [fault, messages] of Object.entries(faults)) {
    for (const message of messages) {
      const mapped = toDomainError(Object.assign(new Error(message), { code: '08P01' })) as DomainError;
      t.like(mapped.metadata, { fault }, message);
    }
  }
});

test('no text of SQL or of the driver gets into a message', (t) => {
  for (const code of ['40001', '57014', 'ECONNREFUSED']) {
    const { message, metadata } = toDomainError(driverError(code, { detail: 'Key (name)=(Ada)' })) as DomainError;
    t.notRegex(JSON.stringify([message, metadata]), /secrets|Ada|insert/);
  }
});

test('what is a mistake of ours stays what it is, and what is mapped already too', (t) => {
  for (const error of [driverError('42601'), driverError('23505'), new TypeError('x'), 'a text', undefined]) {
    t.is(toDomainError(error), error);
  }
  const mapped = new DomainError('not-found', 'JOB_NOT_FOUND', 'Job not found.');
  t.is(toDomainError(mapped), mapped);
});

test('a broken unique constraint is known by its name', (t) => {
  const broken = driverError('23505', { constraint: 'jobs_pkey' });
  t.true(isUniqueViolation(broken));
  t.true(isUniqueViolation(wrapped(broken), 'jobs_pkey'));
  t.false(isUniqueViolation(broken, 'other'));
  t.false(isUniqueViolation(driverError('23503')));
  t.is(codeOf(wrapped(broken)), '23505');
  for (const nothing of [undefined, null, 'x', {}, { code: 5 }]) t.is(codeOf(nothing), undefined);
});
