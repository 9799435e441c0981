import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { watchParts } from './watch-parts.ts';

test('a look that takes long is no answer of another service, and says nothing of what the service cannot do without', async (t) => {
  const changes: [string, string | undefined][] = [];
  const never = new Promise<undefined>(() => undefined);
  const watch = watchParts(
    [
      { name: 'schema', isVital: true, look: () => never },
      { name: 'participant job', look: () => never },
    ],
    (part, problem) => changes.push([part, problem]),
  );
  t.teardown(() => watch.stop());
  await delay(1_500);
  t.deepEqual(changes, [['participant job', 'It does not answer.']]);
  t.false(watch.isVitalAway(), 'a service with much to do is not taken for one without a schema');
});

test('what a look finds counts, however long it took', async (t) => {
  const changes: (string | undefined)[] = [];
  const look = () => delay(1_300, 'It lacks a migration.');
  const watch = watchParts([{ name: 'schema', isVital: true, look }], (_, problem) => changes.push(problem));
  t.teardown(() => watch.stop());
  await delay(2_000);
  t.deepEqual(changes, ['It lacks a migration.']);
  t.true(watch.isVitalAway());
});
