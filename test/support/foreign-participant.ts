import { createServer, type Http2Session } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { freePort } from '#deploy/local/free-port.ts';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';

/**
 * How a foreign service treats the purge of a run: as it should, with an error, late but done, not before it is treated
 * otherwise, as if it were done, with counts that are lower bounds, or with PARTIAL and the same counts for ever, which with
 * `queues` wait for its workers.
 */
export type Temper = 'well' | 'fails' | 'late' | 'waits' | 'keeps' | 'guesses' | 'stalls' | 'queues';

const WAIT_MS = 20;

/** A service of somebody else's that takes part in cascades: notes on runs, in memory, none of Lethe's code. */
export interface ForeignParticipant {
  readonly address: string;
  /** How it treats a run from now on; well by default. */
  treat(runId: string, temper: Temper): void;
  /** Puts so many notes to a run. */
  put(runId: string, notes: number): void;
  countOf(runId: string): number;
  /** Purge calls so far for a run. */
  callsOf(runId: string): number;
  /** The bearer tokens that it was given, by the name of the RPC, the last one first. */
  tokensOf(rpc: string): readonly string[];
  /** Takes the service off the network, and back. */
  down(): Promise<void>;
  up(): Promise<void>;
  close(): Promise<void>;
}

/** Starts it on a free port. `lateMs` is how long the late ones take. */
export async function startForeignParticipant(lateMs: number): Promise<ForeignParticipant> {
  const notes = new Map<string, number>();
  const tempers = new Map<string, Temper>();
  const calls = new Map<string, number>();
  const found = new Map<string, number>();
  const countOf = (runId: string): number => notes.get(runId) ?? 0;
  const counts = (runId: string, deleted: number, total: number) =>
    total === 0 && countOf(runId) === 0
      ? []
      : [{ resourceType: 'note', found: BigInt(total), deleted: BigInt(deleted), left: BigInt(total - deleted) }];

  const tokens: { readonly rpc: string; readonly token: string }[] = [];
  const keepToken: Interceptor = (next) => (request) => {
    const token = request.header.get('authorization')?.replace(/^Bearer /, '') ?? '';
    tokens.unshift({ rpc: request.method.name, token });
    return next(request);
  };

  const handler = connectNodeAdapter({
    interceptors: [keepToken],
    routes: (router) =>
      router.service(ParticipantService, {
        preview: ({ runId }) => ({ resourceCounts: counts(runId, 0, countOf(runId)) }),
        softDelete: () => ({ progress: Progress.COMPLETE }),
        restore: () => ({ progress: Progress.COMPLETE }),
        verify: ({ runId }) => ({ resourceCounts: counts(runId, 0, countOf(runId)) }),
        async purge({ key, runId }) {
          calls.set(runId, (calls.get(runId) ?? 0) + 1);
          const id = `${key?.operationId}/${key?.step}`;
          if (!found.has(id)) found.set(id, countOf(runId));
          const total = found.get(id) ?? 0;
          while (tempers.get(runId) === 'waits') await delay(WAIT_MS);
          const temper = tempers.get(runId) ?? 'well';
          if (temper === 'fails') throw new ConnectError('the notebook is locked', Code.Unavailable);
          if (temper === 'keeps') return { progress: Progress.COMPLETE, resourceCounts: counts(runId, total, total) };
          if (temper === 'stalls' || temper === 'queues') {
            const queued = temper === 'queues';
            return { progress: Progress.PARTIAL, resourceCounts: counts(runId, 0, total), queued };
          }
          notes.delete(runId);
          if (temper === 'late') await delay(lateMs);
          const told = counts(runId, total, total).map((count) => ({ ...count, atLeast: temper === 'guesses' }));
          return { progress: Progress.COMPLETE, resourceCounts: told };
        },
      }),
  });

  const port = await freePort();
  let server = createServer(handler);
  let sessions = new Set<Http2Session>();
  const up = (): Promise<void> =>
    new Promise((resolve, reject) => {
      server = createServer(handler);
      sessions = new Set();
      server.on('session', (session) => sessions.add(session));
      server.once('error', reject);
      server.listen(port, '127.0.0.1', resolve);
    });
  const down = (): Promise<void> =>
    new Promise((resolve) => {
      for (const session of sessions) session.destroy();
      server.close(() => resolve());
    });
  await up();
  return {
    address: `127.0.0.1:${port}`,
    treat: (runId, temper) => tempers.set(runId, temper),
    put: (runId, count) => notes.set(runId, count),
    countOf,
    callsOf: (runId) => calls.get(runId) ?? 0,
    tokensOf: (rpc) => tokens.filter((each) => each.rpc === rpc).map(({ token }) => token),
    up,
    down,
    close: down,
  };
}
