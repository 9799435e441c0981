import { setTimeout as delay } from 'node:timers/promises';
import { type Client as GrpcClient, Metadata, status } from '@grpc/grpc-js';
import { peerOf } from './peer-of.ts';

/**
 * The way to one service: a gRPC client, and a new one in its place where the service is silent on the connections of
 * the old one and answers on new ones. So it is when packets were lost for a while and the other end, or a NAT in
 * between, has forgotten the connections: gRPC's keepalive takes 40 s to notice, and many servers refuse a shorter one.
 */
export interface Channel {
  /** The client to make the next call with. */
  client(): GrpcClient;
  /**
   * Takes note that an answer is waited for; what it returns must be called when the wait is over. `onLost` is called
   * when there will be no answer, since the connection was given up; the call may be made again. A long wait makes it
   * look whether the service is reachable. `peerOf` tells which of several addresses behind a name the call went to.
   */
  awaitAnswer(onLost: () => void, peerOf: () => string): () => void;
  /**
   * Whether anybody there takes calls, by the standard health check, within two seconds. A service without health checks
   * that says so takes calls. It asks once for all who ask at the same time.
   */
  isReachable(): Promise<boolean>;
  close(): void;
}

const PATIENCE_MS = 1_000;
const BRIEF_PATIENCE_MS = 100;
const LONG_WAIT_MS = 2_000;

interface Wait {
  readonly since: number;
  readonly onLost: () => void;
  readonly peerOf: () => string;
}

/** Makes one, with a client that `connect` makes. */
export function makeChannel(connect: () => GrpcClient): Channel {
  let client = connect();
  let waits = new Set<Wait>();
  let asked: Promise<boolean> | undefined;
  let looking: NodeJS.Timeout | undefined;
  let wasSilent = false;
  let isClosed = false;

  const isReachable = (): Promise<boolean> => {
    asked ??= look().finally(() => {
      asked = undefined;
    });
    return asked;
  };

  const look = async (): Promise<boolean> => {
    if (isClosed) return false;
    // While it is silent, each look tries a new client too, so that the first moment in which one is answered counts.
    const patienceMs = wasSilent ? BRIEF_PATIENCE_MS : PATIENCE_MS;
    const answer = checkHealth(client, patienceMs + PATIENCE_MS);
    const first = await Promise.race([answer, delay(patienceMs, 'silent' as const, { ref: false })]);
    if (first !== 'silent') return tell(first);
    if (isClosed) return false;
    const next = connect();
    if ((await checkHealth(next, PATIENCE_MS)) === 'serving' && !isClosed) {
      replace(next, answer);
      return tell('serving');
    }
    next.close();
    return tell(await Promise.race([answer, Promise.resolve('silent' as const)]));
  };

  const tell = (health: Health): boolean => {
    wasSilent = health === 'silent';
    return health === 'serving';
  };

  /** Calls on the old client go on to their end, but those of peers that do not answer late either. */
  const replace = async (next: GrpcClient, lateAnswer: Promise<Health>): Promise<void> => {
    const [oldClient, oldWaits] = [client, waits];
    client = next;
    waits = new Set();
    const answering = findAnswering(oldClient, new Set([...oldWaits].map((wait) => wait.peerOf())));
    if ((await lateAnswer) === 'silent') {
      const peers = await answering;
      for (const wait of oldWaits) if (!peers.has(wait.peerOf())) wait.onLost();
    }
    oldClient.close();
  };

  const lookAtWaits = (): void => {
    looking = undefined;
    const [longest] = waits;
    if (!longest) return;
    looking = setTimeout(lookAtWaits, LONG_WAIT_MS).unref();
    if (performance.now() - longest.since >= LONG_WAIT_MS) void isReachable();
  };

  return {
    client: () => client,
    awaitAnswer(onLost, ofCall) {
      const [wait, among] = [{ since: performance.now(), onLost, peerOf: ofCall }, waits];
      among.add(wait);
      if (!isClosed) looking ??= setTimeout(lookAtWaits, LONG_WAIT_MS).unref();
      return () => among.delete(wait);
    },
    isReachable,
    close() {
      isClosed = true;
      clearTimeout(looking);
      client.close();
    },
  };
}

type Health = 'serving' | 'not serving' | 'silent';

const HEALTH_CHECK = '/grpc.health.v1.Health/Check';
const AWAY: ReadonlySet<number> = new Set([status.UNAVAILABLE, status.CANCELLED]);
// HealthCheckResponse with status = SERVING, its only field; the request for the server as a whole is empty.
const SERVING = Buffer.from([0x08, 0x01]);

const checkHealth = (
  client: GrpcClient,
  patienceMs: number,
  onPeer: (peer: string, health: Health) => void = () => undefined,
): Promise<Health> =>
  new Promise((resolve) => {
    const pass = (bytes: Buffer): Buffer => bytes;
    const within = { deadline: Date.now() + patienceMs };
    const end = (health: Health): void => {
      onPeer(peerOf(call), health);
      resolve(health);
    };
    const request = [HEALTH_CHECK, pass, pass, Buffer.alloc(0), new Metadata(), within] as const;
    const call = client.makeUnaryRequest(...request, (error, answer) => {
      if (error?.code === status.DEADLINE_EXCEEDED) end('silent');
      else if (error) end(AWAY.has(error.code) ? 'not serving' : 'serving');
      else end(SERVING.equals(answer ?? Buffer.alloc(0)) ? 'serving' : 'not serving');
    });
  });

// A client asks the addresses behind a name in turn; of more than so many, some may not be asked.
const MOST_PEERS = 32;

/** Which peers answer on the client's connections, where calls wait on several; none where all of them wait on one. */
async function findAnswering(client: GrpcClient, peers: ReadonlySet<string>): Promise<ReadonlySet<string>> {
  const answering = new Set<string>();
  if (peers.size < 2) return answering;
  const note = (peer: string, health: Health): void => {
    if (health !== 'silent') answering.add(peer);
  };
  await Promise.all(Array.from({ length: MOST_PEERS }, () => checkHealth(client, PATIENCE_MS, note)));
  return answering;
}
