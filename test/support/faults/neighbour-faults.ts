import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import type { TcpGate } from '#test/support/tcp-gate.ts';
import { until } from '#test/support/test-stack.ts';
import { type Fault, GOOD } from './fault.ts';
import { type Ground, PEERS, type Peer, withClock } from './ground.ts';

const BY: Readonly<Record<Peer, 'run' | 'retention'>> = {
  'participant job': 'run',
  'participant incident': 'run',
  'owner incident': 'retention',
  'owner run': 'retention',
};

const atPeers = (name: string, peers: readonly Peer[], apply: (gate: TcpGate) => void): Fault => ({
  name,
  on: 'network',
  apply: async (ground) => {
    for (const peer of peers) apply(ground.peers[peer]);
  },
  undo: async ({ openAll }) => openAll(),
  all: GOOD,
  of: Object.fromEntries(
    // The line that counts is that of a service's first.
    peers.toReversed().map((peer) => [BY[peer], { ready: [200, peer, 'It '], metric: ['part down', peer] }]),
  ),
  watch: 'goes on',
});

const restarted = (services: readonly ServiceName[], env?: Readonly<Record<string, string>>) => (ground: Ground) =>
  Promise.all(services.map((name) => ground.restart(name, env)));

/** Of tokens that were just signed; those that services sign are tolerated, but a person's is not. */
const FROM_THE_FUTURE = {
  read: 'UNAUTHENTICATED TOKEN_INVALID',
  write: 'UNAUTHENTICATED TOKEN_INVALID',
  metric: ['calls ended with', '16'],
} as const;

const CALLERS = ['run', 'retention'] as const;
const withWrongClock = (name: string, aheadMs: number, of: Fault['of'] = {}): Fault => ({
  name,
  on: 'clock and keys',
  apply: restarted(CALLERS, withClock(aheadMs)),
  undo: restarted(CALLERS),
  all: GOOD,
  of,
  watch: 'may end',
  restarts: CALLERS,
});

const trustFileOf = ({ stack }: Ground): string => join(stack.folder, 'keys', 'trust.json');

function brokenTrustFile(): Pick<Fault, 'apply' | 'undo'> {
  let good = '';
  return {
    async apply(ground) {
      good = await readFile(trustFileOf(ground), 'utf8');
      await writeFile(trustFileOf(ground), '{');
      await until('every service has seen it', async () => {
        for (const name of SERVICE_NAMES) {
          await ground.probes[name].read();
          const log = await readFile(join(ground.stack.folder, 'logs', `${name}.log`), 'utf8');
          if (!log.includes('cannot be used; the last one still holds')) return false;
        }
        return true;
      });
    },
    undo: (ground) => writeFile(trustFileOf(ground), good),
  };
}

/** What befalls the network between services, their processes, clocks and keys. */
export const NEIGHBOUR_FAULTS: readonly Fault[] = [
  atPeers('a participant refuses connections', ['participant job'], (gate) => gate.refuse()),
  atPeers('an owner refuses connections', ['owner incident'], (gate) => gate.refuse()),
  atPeers('participants and owners are silent, and forget their connections', PEERS, (gate) => gate.swallow()),
  {
    name: 'every service is stopped by SIGTERM and started again',
    on: 'process',
    apply: restarted(SERVICE_NAMES),
    undo: async () => undefined,
    all: GOOD,
    watch: 'may end',
    restarts: SERVICE_NAMES,
  },
  {
    name: 'every service is killed, and started again',
    on: 'process',
    apply: async ({ stack }) => {
      for (const name of SERVICE_NAMES) process.kill(stack.pid(name) ?? 0, 'SIGKILL');
    },
    undo: async () => undefined,
    all: GOOD,
    watch: 'may end',
    restarts: SERVICE_NAMES,
  },
  withWrongClock('the clocks of Run- and RetentionService are 35 s fast', 35_000),
  withWrongClock('the clocks of Run- and RetentionService are 35 s slow', -35_000, {
    run: FROM_THE_FUTURE,
    retention: FROM_THE_FUTURE,
  }),
  { name: 'the trust file cannot be read', on: 'clock and keys', ...brokenTrustFile(), all: GOOD, watch: 'goes on' },
];
