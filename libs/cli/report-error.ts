import { type Command, CommanderError } from 'commander';
import { LetheError, toLetheError } from '#libs/client/lethe.ts';
import { Interrupted } from './interrupted.ts';
import { nextStepOf } from './next-steps.ts';
import { EXIT, toJson } from './output.ts';
import { spellField, spellViolations } from './spell-fields.ts';
import { toLine } from './table.ts';
import type { Terminal } from './terminal.ts';
import { Unread } from './unread.ts';
import { UsageError } from './usage-error.ts';

const NOT_SENT: ReadonlySet<string> = new Set(['USAGE', 'ADDRESS_MISSING', 'CERTIFICATE_UNUSABLE']);

/**
 * Tells what went wrong, in one line on standard error and below it what to do, or as one JSON object on standard
 * output; answers with the exit code. `command` is the one that ran, whose options name the fields.
 */
export function reportError(error: unknown, command: Command | undefined, terminal: Terminal, json: boolean): number {
  // Help was asked for, or was shown since a subcommand is missing.
  if (error instanceof CommanderError && /^commander\.(help|version)/.test(error.code)) {
    return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  }
  if (error instanceof Interrupted) {
    terminal.err(error.advice === '' ? 'interrupted' : `interrupted. ${error.advice}`);
    return EXIT.interrupted;
  }
  if (error instanceof Unread) return EXIT.ok;
  const told = toTold(error);
  const { code, reason, metadata } = told;
  const isFields = reason === 'FIELD_INVALID' && told.violations.length > 0;
  const message = toLine(isFields ? spellViolations(command, told.violations) : told.message);
  const next = nextStepOf(told);
  const violations = told.violations.map((violation) => ({
    ...violation,
    option: spellField(command, violation.field),
  }));
  if (json) terminal.out(toJson({ error: { code, reason, message, next, metadata, violations } }));
  else {
    terminal.err(`error: ${reason}: ${message}`);
    if (next !== undefined) terminal.err(next);
  }
  return NOT_SENT.has(reason) ? EXIT.usage : EXIT.failed;
}

function toTold(error: unknown): LetheError {
  const isGivenUp = error instanceof Error && error.name === 'ExitPromptError';
  if (isGivenUp) return new LetheError('CANCELLED', 'USAGE', 'given up; nothing was done');
  if (error instanceof UsageError || error instanceof CommanderError) {
    return new LetheError('INVALID_ARGUMENT', 'USAGE', error.message.replace(/^error: /, ''), { cause: error });
  }
  return toLetheError(error);
}
