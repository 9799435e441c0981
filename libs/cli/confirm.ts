import { input } from '@inquirer/prompts';
import { UsageError } from './session.ts';

/**
 * Asks to type the id of what cannot be undone. Passes at once with `--yes`; without a terminal it is a UsageError,
 * so that a script never waits for somebody who is not there.
 */
export async function confirmByTyping(what: string, id: string, yes: boolean): Promise<void> {
  if (yes) return;
  if (!process.stdin.isTTY) throw new UsageError(`${what} cannot be undone; add --yes to do it without a terminal`);
  const typed = await input({ message: `${what} cannot be undone. Type ${id} to go on:` });
  if (typed.trim() !== id) throw new UsageError('what was typed is not the id; nothing was done');
}
