import test from 'ava';
import type { Job } from '../domain/job.ts';
import { JOB, jobIn, NOW, partOf, TENANT } from './fakes.fixture.ts';
import type { JobRepository } from './ports.ts';
import { makeWorkOnJob } from './work-on-job.ts';

/** Passes over jobs that were found abandoned; each is what its look under the lock shows, or not there. */
function fixture(found: readonly (Job | undefined)[]) {
  const saved: Job[] = [];
  const jobs = partOf<JobRepository>({
    findAbandonedCancellations: async () =>
      found.map((_, index) => ({ tenantId: TENANT, jobId: index === 0 ? JOB : `${JOB}-${index}` })),
    async update(_, jobId, change) {
      const before = found[jobId === JOB ? 0 : Number(jobId.slice(JOB.length + 1))];
      if (!before) return undefined;
      const after = change(before, NOW);
      if (after !== before) saved.push(after);
      return after;
    },
  });
  return { saved, pass: makeWorkOnJob(jobs).endAbandonedCancellations };
}

const leaseUntil = (expiresAt: Temporal.Instant) => ({ lease: { owner: 'w', token: 1n, expiresAt } });

test('a pass ends the jobs whose cancellation was abandoned, and tells how many those were', async (t) => {
  const { saved, pass } = fixture([jobIn('CANCELLING', leaseUntil(NOW)), jobIn('CANCELLING', leaseUntil(NOW))]);
  t.is(await pass(), 2);
  t.deepEqual(
    saved.map(({ state }) => state),
    ['CANCELLED', 'CANCELLED'],
  );
});

test('a pass that changes nothing tells so, and is not repeated at once', async (t) => {
  const beats = jobIn('CANCELLING', leaseUntil(NOW.add({ seconds: 1 })));
  const { saved, pass } = fixture([undefined, jobIn('CANCELLED', leaseUntil(NOW)), beats, jobIn('CANCELLING')]);
  t.is(await pass(), 0);
  t.deepEqual(saved, []);
});
