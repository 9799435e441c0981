import { parseId } from '#libs/kernel/id.ts';
import type { Look, RunScope } from '#libs/participant/participant.ts';
import { jobPrefix } from '../domain/artifact.ts';
import type { RunJobs } from './deletion-ports.ts';

const PREFIXES_PER_PAGE = 200;

/**
 * Visits the prefixes of a run's jobs, `atATime`; answers where to go on when the budget is reached, by the last job's
 * id. It visits one job at least, so that a caller who goes on comes to the end.
 */
export async function visitPrefixes(
  runJobs: Pick<RunJobs, 'listPrefixes'>,
  scope: RunScope,
  { budgetMs = Number.POSITIVE_INFINITY, cursor, signal }: Look,
  atATime: number,
  visit: (jobs: readonly { readonly jobId: string; readonly prefix: string }[]) => Promise<void>,
): Promise<string | undefined> {
  const endsAt = performance.now() + budgetMs;
  let last = cursor === undefined ? undefined : parseId('cursor', cursor);
  for (let isLast = false; !isLast; ) {
    const after = last === undefined ? undefined : [last];
    const page = await runJobs.listPrefixes(scope, { limit: PREFIXES_PER_PAGE, after });
    isLast = page.next === undefined;
    for (let at = 0; at < page.items.length; at += atATime) {
      signal?.throwIfAborted();
      if (performance.now() >= endsAt && last !== cursor) return last;
      const some = page.items.slice(at, at + atATime);
      await visit(some.map((jobId) => ({ jobId, prefix: jobPrefix(scope.tenantId, jobId) })));
      last = some.at(-1);
    }
  }
  return undefined;
}
