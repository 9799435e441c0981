import type { Stack } from '../stack.ts';

/** What one part of the main job came to. */
export interface PartReport {
  /** What was there at each stage, for people. */
  readonly table: string;
  /** What differs from what must be; empty when every count is right. */
  readonly mistakes: readonly string[];
}

/** One part of the main job: what a caller would do, over gRPC, and its counts, from SQL and the store's folder. */
export type Part = (stack: Stack, say: (line: string) => void) => Promise<PartReport>;
