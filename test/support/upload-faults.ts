import { createHash } from 'node:crypto';
import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Client } from '@connectrpc/connect';
import type { ExecutionContext } from 'ava';
import { downloadArtifact, uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import type { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { UPLOAD_CRASH_POINTS } from './crash-points.ts';
import { type JobReplica, startJobReplica } from './job-replica.ts';
import { queryOnce } from './postgres.ts';
import { makeTcpGate, type TcpGate } from './tcp-gate.ts';
import { refusalOf, type TestStack, until } from './test-stack.ts';

/** What befalls a replica at one await of an upload. */
export const FAULTS = [
  'stopped',
  'killed',
  'database cut',
  'database answers lost',
  'store cut',
  'store answers lost',
] as const;

/** One of FAULTS. */
export type Fault = (typeof FAULTS)[number];

/** The settings of all replicas: leases and pauses that a test can wait for. */
export const UPLOAD_TIMES = {
  LETHE_UPLOAD_LEASE_MS: '2500',
  LETHE_UPLOAD_GRACE_MS: '300',
  LETHE_DELETION_LEASE_MS: '3000',
  LETHE_DELETION_BACKOFF_MS: '100',
  LETHE_DELETION_BACKOFF_MAX_MS: '500',
};

const LEASE_MS = Number(UPLOAD_TIMES.LETHE_UPLOAD_LEASE_MS);

/** Two replicas on one database and store: the stack's own, and one that faults befall. */
export interface FaultyUploads {
  /** Where the product keeps objects, read without the product: every object, version, temporary file of the tenant. */
  readonly list: (tenantId: string) => Promise<string[]>;
  /** What the store holds for one artifact's object that is whole, e.g. its bytes and its media type. */
  readonly pathsOf: (key: string) => string[];
  run(t: ExecutionContext<unknown>, scenario: Scenario): Promise<void>;
  stop(): Promise<void>;
}

/** One fault at one await of one upload. */
export interface Scenario {
  readonly point: (typeof UPLOAD_CRASH_POINTS)[number];
  readonly fault: Fault;
  readonly isReplacement: boolean;
  readonly bytes: number;
}

type Jobs = Client<typeof JobService>;

const ARTIFACT = { kind: ArtifactKind.INPUT, name: 'call.wav', contentType: 'audio/wav' };
const CUT_MS = 300;

/** Content whose every part tells whose it is. */
const contentOf = (text: string, bytes: number): Buffer => Buffer.alloc(bytes, `${text} of ${newId()}; `);

const isStop = (fault: Fault): boolean => fault !== 'killed';

/** Starts the faulty replica beside the stack's own. `store` is host:port of an S3 server, where that is the store. */
export async function startFaultyUploads(
  stack: TestStack,
  { list, pathsOf }: Pick<FaultyUploads, 'list' | 'pathsOf'>,
  store: { readonly address: string; readonly env: (address: string) => Record<string, string> } | undefined,
): Promise<FaultyUploads> {
  const crashFile = join(tmpdir(), `lethe-crash-${newId()}`);
  const databaseUrl = new URL(stack.environment('job')['LETHE_DATABASE_URL'] ?? '');
  const database = databaseUrl.host;
  const [databaseGate, storeGate] = [await makeTcpGate(), await makeTcpGate()];
  databaseGate.open(database);
  if (store) storeGate.open(store.address);
  databaseUrl.host = databaseGate.address;
  const replica: JobReplica = await startJobReplica(stack, 'job-faulty', {
    LETHE_CRASH_FILE: crashFile,
    LETHE_DATABASE_URL: databaseUrl.href,
    ...store?.env(storeGate.address),
  });
  const gates: Partial<Record<Fault, readonly [TcpGate, string]>> = {
    'database cut': [databaseGate, database],
    'database answers lost': [databaseGate, database],
    'store cut': [storeGate, store?.address ?? ''],
    'store answers lost': [storeGate, store?.address ?? ''],
  };

  let nudge: NodeJS.Timeout | undefined;
  /**
   * Lets the replica go on, again and again until its call has ended: it tells that it has reached the point just before
   * it stops, so that the first signal may come too early and be lost.
   */
  const goOn = (): void => {
    const pid = replica.pid();
    const signal = (): void => {
      if (pid !== undefined && replica.pid() === pid) process.kill(pid, 'SIGCONT');
    };
    signal();
    nudge = setInterval(signal, 100);
  };

  /** What befalls the replica while it stands at the point; `others` is what happens meanwhile. */
  const strike = async (fault: Fault, others: () => Promise<void>): Promise<void> => {
    if (fault === 'killed') return;
    const [gate, target] = gates[fault] ?? [];
    if (!gate || !target) {
      await others();
      goOn();
      return;
    }
    if (fault.endsWith('cut')) {
      gate.shut();
      goOn();
    } else {
      const lost = gate.loseAnswers();
      goOn();
      await Promise.race([lost, delay(2_000)]);
      gate.shut();
    }
    await delay(CUT_MS);
    gate.open(target);
  };

  return {
    list,
    pathsOf,
    async run(t, { point, fault, isReplacement, bytes }) {
      const label = `${fault} at ${point}`;
      const tenantId = `t${newId().slice(-12)}`;
      const own: Jobs = stack.clients({ tenantId, role: 'admin' }).jobs;
      const jobId = (await own.createJob({})).job?.id ?? '';
      const upload = (jobs: Jobs, content: Buffer) => uploadArtifact(jobs, jobId, { ...ARTIFACT, content });
      /** What was acknowledged last, and so is what a download must give. */
      let acknowledged: Buffer | undefined;
      if (isReplacement) {
        acknowledged = contentOf('first', bytes);
        await upload(own, acknowledged);
      }
      await rm(`${crashFile}.struck`, { force: true });
      await writeFile(crashFile, isStop(fault) ? `${point} stop` : point);
      const faulty = replica.connect({ tenantId, role: 'admin' });
      const content = contentOf('faulty', bytes);
      const beganAt = performance.now();
      const outcome = upload(faulty.jobs, content).then(
        () => 'OK',
        async (error) => (await refusalOf(Promise.reject(error))).reason ?? 'UNAVAILABLE',
      );
      await until(`${label}: it was reached`, () => access(`${crashFile}.struck`).then(() => true), 30_000);
      await strike(fault, async () => {
        // Somebody else's upload of the same artifact is acknowledged while this one sleeps.
        const other = contentOf('other', bytes);
        await until(`${label}: the lease ran out`, () => upload(own, other).then(() => true), 30_000);
        acknowledged = other;
      });
      const answer = await outcome.finally(() => clearInterval(nudge));
      const tookMs = performance.now() - beganAt;
      faulty.close();
      // One that was stopped behind its last write was done before the other began, and only told of it later.
      if (answer === 'OK' && !(fault === 'stopped' && point === 'upload.after-finish')) acknowledged = content;
      await replica.serves();

      // Quiescence: nothing is under way, and nothing that is to be removed is left.
      await until(
        `${label}: quiescence (${answer})`,
        async () => {
          const sql = 'select count(*)::int as count from artifact_uploads where tenant_id = $1';
          const [row] = await queryOnce<{ count: number }>(stack.superuserUrl('job'), sql, [tenantId]);
          return row?.count === 0;
        },
        60_000,
      );
      const rows = await queryOnce<{ object_id: string; bytes: string }>(
        stack.superuserUrl('job'),
        'select object_id, bytes from artifacts where tenant_id = $1',
        [tenantId],
      );
      // An answer that was lost on the way to the caller tells him neither way; what he reads is whole all the same.
      const isUnknown = answer !== 'OK' && point === 'upload.after-finish';
      if (isUnknown && rows.length > 0)
        acknowledged = (await downloadOf(own, jobId)).equals(content) ? content : acknowledged;
      if (acknowledged) {
        t.deepEqual(digestible(await downloadOf(own, jobId)), digestible(acknowledged), `${label}: ${answer}`);
      } else {
        t.deepEqual(rows, [], `${label}: ${answer}`);
      }
      const keys = rows.map((row) => `tenants/${tenantId}/jobs/${jobId}/input/${row.object_id}-${ARTIFACT.name}`);
      t.deepEqual(await list(tenantId), keys.flatMap(pathsOf).toSorted(), `${label}: ${answer}: what the store holds`);
      if (fault === 'stopped' && !['upload.before-intent', 'upload.after-finish'].includes(point)) {
        t.is(answer, 'LEASE_LOST', label);
      }
      const isReadBack =
        (fault === 'database answers lost' && point === 'upload.after-put') ||
        (fault === 'store answers lost' && point === 'store.put.before-complete');
      if (isReadBack) {
        // The outcome is read back: OK where the row was written. A refusal is as true: nothing was written, because
        // the lease had run out or because what the answers were lost of never arrived.
        const isWritten = rows.length > 0 && (await downloadOf(own, jobId)).equals(content);
        t.is(answer === 'OK', isWritten, `${label}: ${answer}`);
        const refusals = tookMs >= LEASE_MS ? ['LEASE_LOST', 'DEPENDENCY_UNAVAILABLE'] : ['DEPENDENCY_UNAVAILABLE'];
        if (!isWritten) t.true(refusals.includes(answer), `${label}: ${answer} after ${tookMs} ms`);
      }
    },
    async stop() {
      await replica.stop();
      await databaseGate.close();
      await storeGate.close();
      for (const file of [crashFile, `${crashFile}.struck`]) await rm(file, { force: true });
    },
  };
}

const downloadOf = (jobs: Jobs, jobId: string): Promise<Buffer> =>
  downloadArtifact(jobs, jobId, ARTIFACT.kind, ARTIFACT.name);

/** A large content shown by what tells it apart. */
const digestible = (content: Buffer) => ({
  bytes: content.length,
  begins: content.subarray(0, 60).toString(),
  sha256: createHash('sha256').update(content).digest('hex'),
});

/** The four kinds of upload that faults befall. */
export const KINDS = [
  { what: 'a first small upload', isReplacement: false, bytes: 3_000 },
  { what: 'a small replacement', isReplacement: true, bytes: 3_000 },
  { what: 'a first upload in parts', isReplacement: false, bytes: 6_000_000 },
  { what: 'a replacement in parts', isReplacement: true, bytes: 6_000_000 },
] as const;

/**
 * The awaits at which a fault befalls one kind of upload. Each fault strikes at every await in one of the kinds; with
 * LETHE_ALL_UPLOAD_FAULTS=1, in all of them.
 */
export const pointsFor = (fault: Fault, kind: (typeof KINDS)[number]): readonly Scenario['point'][] =>
  UPLOAD_CRASH_POINTS.filter(
    (_, index) =>
      process.env['LETHE_ALL_UPLOAD_FAULTS'] === '1' ||
      (index + FAULTS.indexOf(fault)) % KINDS.length === KINDS.indexOf(kind),
  );
