import { parseId } from '#libs/kernel/id.ts';
import type { Look, RunScope } from '#libs/participant/participant.ts';
import { jobPrefix } from '../domain/artifact.ts';
import type { RunJobs } from './deletion-ports.ts';

const PREFIXES_PER_PAGE = 200;
// A run may have thousands of jobs, and a store takes many times as long to answer as to look.
const LISTINGS_AT_A_TIME = 16;

/**
 * Visits the prefixes of a run's jobs, some at a time; answers where to go on when the budget is reached, by the last job's
 * id. It visits one job at least, so that a caller who goes on comes to the end.
 */
export async function visitPrefixes(
  runJobs: Pick<RunJobs, 'listPrefixes'>,
  scope: RunScope,
  { budgetMs = Number.POSITIVE_INFINITY, cursor, signal }: Look,
  visit: (jobId: string, prefix: string) => Promise<void>,
): Promise<string | undefined> {
  const endsAt = performance.now() + budgetMs;
  let last = cursor === undefined ? undefined : parseId('cursor', cursor);
  for (let isLast = false; !isLast; ) {
    const after = last === undefined ? undefined : [last];
    const page = await runJobs.listPrefixes(scope, { limit: PREFIXES_PER_PAGE, after });
    isLast = page.next === undefined;
    for (let at = 0; at < page.items.length; at += LISTINGS_AT_A_TIME) {
      signal?.throwIfAborted();
      if (performance.now() >= endsAt && last !== cursor) return last;
      const some = page.items.slice(at, at + LISTINGS_AT_A_TIME);
      await Promise.all(some.map((jobId) => visit(jobId, jobPrefix(scope.tenantId, jobId))));
      last = some.at(-1);
    }
  }
  return undefined;
}
