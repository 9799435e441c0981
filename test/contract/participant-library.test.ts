import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { importJWK } from 'jose';
import { pino } from 'pino';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { makeKeyPair, SIGNATURE_ALGORITHM, type SigningKey } from '#libs/auth/keys.ts';
import { SUITE_KEY, toTrustFile } from '#libs/auth/lethe-keys.ts';
import { openTrust } from '#libs/auth/open-trust.ts';
import { POLICY } from '#libs/auth/policy.ts';
import { makeTokenVerifier } from '#libs/auth/verify-token.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { type RunningServer, startServer } from '#libs/grpc/server.ts';
import { newId } from '#libs/kernel/id.ts';
import { bindParticipant } from '#libs/participant/bind-participant.ts';
import { makeDataId } from '#libs/postgres/data-id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { makeMetrics } from '#libs/telemetry/metrics.ts';
import { makeNotesParticipant, notes } from '#test/support/notes-participant.ts';
import { participantClient } from '#test/support/participant-clients.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { participantContract } from './participant.ts';

let postgres: TestPostgres;
let created: TestDatabase;
let database: Database;
let server: RunningServer;
let connection: Connection;
let key: SigningKey;
let folder: string;

test.before(async () => {
  postgres = await startTestPostgres();
  created = await postgres.createDatabase([notes]);
  database = created.open();
  const { privateJwk, publicJwk } = await makeKeyPair();
  key = { kid: String(publicJwk.kid), key: await importJWK(privateJwk, SIGNATURE_ALGORITHM) };
  folder = await mkdtemp(join(tmpdir(), 'lethe-test-notes-'));
  const trustFile = join(folder, 'trust.json');
  await writeFile(
    trustFile,
    toTrustFile([{ name: 'suite', issuer: 'lethe', jwks: { keys: [publicJwk] }, allow: SUITE_KEY }]),
  );
  server = await startServer({
    address: '127.0.0.1:0',
    services: [bindParticipant(makeNotesParticipant(database), makeDataId(database))],
    verifyToken: makeTokenVerifier({ trust: await openTrust(trustFile), names: { participant: 'notes' } }),
    policy: POLICY,
    log: pino({ level: 'silent' }),
    metrics: makeMetrics('notes'),
  });
  connection = connect({ address: `127.0.0.1:${server.port}`, token: async () => 'no token' });
});
test.after.always(async () => {
  connection?.close();
  await server?.stop();
  await database?.close();
  await postgres?.stop();
  await rm(folder, { recursive: true, force: true });
});

test('a participant that stands on the library takes fewer than 200 lines', (t) => {
  const source = readFileSync(new URL('../support/notes-participant.ts', import.meta.url), 'utf8');
  t.true(source.split('\n').length < 200);
});

participantContract(test, 'a participant on the library', () => ({
  participant: (tenantId, changes) =>
    participantClient({ connection, name: 'notes', key: async () => key }, tenantId, changes),
  forger: () => connection.client(ParticipantService),
  hasEffects: true,
  async seed(tenantId, runId, steps) {
    for (const step of steps) {
      await created.query(
        `insert into notes (tenant_id, id, run_id, step, text) values ($1, $2, $3, $4, 'a'), ($1, $5, $3, $4, 'b')`,
        [tenantId, newId(), runId, step, newId()],
      );
    }
  },
  read: (tenantId, runId) =>
    created.query('select * from notes where tenant_id = $1 and run_id = $2 and hidden_by is null order by id', [
      tenantId,
      runId,
    ]),
  remains: (tenantId, runId) =>
    created.query('select * from notes where tenant_id = $1 and run_id = $2 order by id', [tenantId, runId]),
  action: { name: 'take-note', input: { text: 'a note' }, otherInput: { text: 'another' } },
}));
