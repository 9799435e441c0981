import type { Stack } from '../stack.ts';
import { executions } from './executions.ts';
import { jobsAndRuns } from './jobs-and-runs.ts';
import { plans } from './plans.ts';
import { showcase } from './showcase.ts';
import { workflows } from './workflows.ts';

/** Runs Lethe's main job once; answers with what is wrong, which is nothing when every count is right. */
export async function runMainJob(stack: Stack, tell: (text: string) => void): Promise<readonly string[]> {
  const mistakes: string[] = [];
  for (const part of [jobsAndRuns, workflows, plans, executions, showcase]) {
    const report = await part(stack, (line) => tell(`- ${line}`));
    tell(report.table);
    mistakes.push(...report.mistakes);
  }
  return mistakes;
}
