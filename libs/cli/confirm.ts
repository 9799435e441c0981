import type { Terminal } from './terminal.ts';
import { UsageError } from './usage-error.ts';

/**
 * Asks to type a word, as a rule the id, before something that cannot be undone. Passes at once with `--yes`; without
 * a terminal it is a UsageError, so that a script never waits for somebody who is not there.
 */
export async function confirmByTyping(terminal: Terminal, what: string, word: string, yes: boolean): Promise<void> {
  if (yes) return;
  requireTerminalOrYes(terminal, what, yes);
  const typed = await terminal.ask(`${what} cannot be undone. Type ${word} to go on:`);
  if (typed.trim() !== word) throw new UsageError(`what was typed is not ${word}; nothing was done`);
}

/** As confirmByTyping, for what scripts and CronJobs have always done unasked: without a terminal it passes. */
export async function confirmOnTerminal(terminal: Terminal, what: string, word: string, yes: boolean): Promise<void> {
  if (terminal.isInteractive) await confirmByTyping(terminal, what, word, yes);
}

/** The UsageError of confirmByTyping alone, for those that have something to show before they ask. */
export function requireTerminalOrYes(terminal: Terminal, what: string, yes: boolean): void {
  if (yes || terminal.isInteractive) return;
  throw new UsageError(`${what} cannot be undone; add --yes to do it without a terminal`);
}
