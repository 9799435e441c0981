import test from 'ava';
import { type Deletion, type DeletionStep, pendingStep } from '../domain/deletion.ts';
import type { DeletionWork, Participant } from './deletion-ports.ts';
import { makeRunCascades } from './run-cascades.ts';

const MAX_PARTS = 100;
const SETTINGS = {
  workerId: 'w',
  leaseMs: 60_000,
  movesPerTurn: 50,
  purgeLimit: 10,
  retry: { maxAttempts: 3, baseMs: 1, maxMs: 1 },
};

/** How a read-back ends whose participant answers with what follows on each place. */
async function readBack(next: Readonly<Record<string, string>>): Promise<string> {
  const steps: DeletionStep[] = [{ ...pendingStep('notes'), state: 'VERIFYING' }];
  const deletion = { id: 'd', tenantId: 'acme', runId: 'r', mode: 'PURGE', attempts: 0, steps } as unknown as Deletion;
  let ending = 'released';
  let parts = 0;
  const work = {
    findDue: async () => [{ tenantId: 'acme', deletionId: 'd' }],
    claim: async () => ({ deletion, token: 1n }),
    saveStep: async () => undefined,
    async fail(_: unknown, step: DeletionStep) {
      ending = step.lastError ?? '';
    },
    async complete() {
      ending = 'complete';
      return deletion;
    },
  } as unknown as DeletionWork;
  const notes = {
    name: 'notes',
    isReachable: async () => true,
    async verify(_: unknown, cursor = new Uint8Array()) {
      parts += 1;
      if (parts > MAX_PARTS) throw new Error('it is asked for ever');
      const place = next[new TextDecoder().decode(cursor)];
      return { counts: [], ...(place !== undefined && { cursor: new TextEncoder().encode(place) }) };
    },
  } as unknown as Participant;
  await makeRunCascades(
    work,
    async () => undefined,
    [notes],
    SETTINGS,
    () => undefined,
  )(new AbortController().signal);
  return ending;
}

test('a read-back goes on from each place that the participant names, until it names none', async (t) => {
  t.is(await readBack({ '': 'a', a: 'b' }), 'complete');
});

test('a participant that goes back to a part is a failed attempt, and its read-back does not go on for ever', async (t) => {
  t.regex(await readBack({ '': 'a', a: 'b', b: 'a' }), /^DEPENDENCY_UNAVAILABLE: /);
});
