import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { ExecutionContext, TestFn } from 'ava';

/** Whether a program is on the PATH. */
export const hasProgram = (name: string): boolean =>
  (process.env['PATH'] ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

/**
 * Declares a test that needs something npm cannot bring. Where it is not found the test is named as skipped; with
 * LETHE_REQUIRE_ALL=1 it fails instead, so that CI cannot pass by not looking.
 */
export function testIfFound<Context>(
  declare: Pick<TestFn<Context>, 'skip'> & ((title: string, body: (t: ExecutionContext<Context>) => unknown) => void),
  isFound: boolean,
  needs: string,
  title: string,
  body: (t: ExecutionContext<Context>) => Promise<void> | void,
): void {
  if (isFound) declare(title, body);
  else if (process.env['LETHE_REQUIRE_ALL'] === '1')
    declare(title, (t) => t.fail(`${needs} is required and was not found`));
  else declare.skip(`${title} (skipped: ${needs} was not found)`, body);
}
