import test from 'ava';
import type { Caller } from '#libs/kernel/caller.ts';
import type { Run } from '../domain/run.ts';
import type { RunStep } from '../domain/step.ts';
import type { ReadRuns } from './read-runs.ts';
import type { RunChanges } from './run-changes.ts';
import { makeWatchRun } from './watch-run.ts';

test('a step is sent again when anything of it has changed, such as its participants alone', async (t) => {
  const stepOf = (name: string, participants: readonly string[]): RunStep => ({
    runId: 'r',
    name,
    position: 1,
    state: 'RUNNING',
    participants,
    attempts: 0,
    error: undefined,
    startedAt: undefined,
    finishedAt: undefined,
    compensatedAt: undefined,
    removed: [],
    tombstone: undefined,
  });
  const versions: readonly (readonly RunStep[])[] = [
    [stepOf('brief', []), stepOf('draft', ['job'])],
    [stepOf('brief', []), stepOf('draft', ['job', 'incident'])],
    [stepOf('brief', []), stepOf('draft', ['job', 'incident'])],
  ];
  let version = 0;
  const read = {
    async get() {
      const state = version === versions.length - 1 ? 'COMPLETED' : 'RUNNING';
      return { id: 'r', tenantId: 'acme', state, version: BigInt(version) } as Run;
    },
    listSteps: async () => ({ items: versions[version] ?? [], next: undefined }),
  } as unknown as ReadRuns;
  const changes = {
    async wait() {
      version += 1;
    },
  } as unknown as RunChanges;
  const sent: (readonly string[])[] = [];
  const watched = makeWatchRun(read, changes)(
    { caller: {} as Caller, runId: 'r', showDeleted: false },
    new AbortController().signal,
  );
  for await (const { steps } of watched) sent.push(steps.map(({ name }) => name));
  t.deepEqual(sent, [['brief', 'draft'], ['draft'], []]);
});
