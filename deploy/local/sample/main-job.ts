import type { Stack } from '../stack.ts';
import { jobsAndRuns } from './jobs-and-runs.ts';
import { plans } from './plans.ts';
import { workflows } from './workflows.ts';

/** What one part of the main job came to. */
export interface PartReport {
  /** What was there at each stage, for people. */
  readonly table: string;
  /** What differs from what must be; empty when every count is right. */
  readonly mistakes: readonly string[];
}

/** One part of the main job: what a caller would do, over gRPC, and its counts, from SQL and the store's folder. */
export type Part = (stack: Stack, say: (line: string) => void) => Promise<PartReport>;

/** Runs Lethe's main job once; answers with what is wrong, which is nothing when every count is right. */
export async function runMainJob(stack: Stack, tell: (text: string) => void): Promise<readonly string[]> {
  const mistakes: string[] = [];
  for (const part of [jobsAndRuns, workflows, plans]) {
    const report = await part(stack, (line) => tell(`- ${line}`));
    tell(report.table);
    mistakes.push(...report.mistakes);
  }
  return mistakes;
}
