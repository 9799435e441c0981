#!/usr/bin/env node
import { Command, CommanderError, Option } from 'commander';
import { ROLES } from '#libs/auth/keys.ts';
import { SCOPES } from '#libs/auth/policy.ts';
import { type Lethe, toLetheError } from '#libs/client/lethe.ts';
import type { Role } from '#libs/kernel/caller.ts';
import { addJobCommands } from './commands/jobs.ts';
import { addPurgeCommands } from './commands/purge.ts';
import { addRunCommands } from './commands/runs.ts';
import { EXIT, toJson } from './output.ts';
import { type IdentityOptions, mintToken, openSession, readProfile, UsageError } from './session.ts';

/** What every command is given: the SDK as its caller, and how it is to print. */
export interface CommandContext {
  readonly lethe: Lethe;
  readonly json: boolean;
  print(value: unknown, text: () => string): void;
}

/** Wraps a command's work: opens the SDK, and closes it whatever happens. Its answer is the exit code. */
export type Run = (work: (context: CommandContext) => Promise<number>) => Promise<void>;

const program = new Command('lethe')
  .description("Ends data's life on purpose, and proves it.")
  .option('--profile <file>', 'addresses and key; .lethe/cli.json by default')
  .option('--tenant <tenant>', 'act in this tenant; without it as platform')
  .addOption(new Option('--role <role>', 'act with this role').choices(ROLES as Role[]))
  .option('--subject <subject>', 'who acts, for the audit')
  .option('--json', 'print JSON')
  .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 not tried (usage), 3 done in part.')
  .exitOverride()
  .configureOutput({ writeErr: (text) => process.stderr.write(text) });

const run: Run = async (work) => {
  const { json = false, ...identity } = program.opts<IdentityOptions & { json?: boolean }>();
  const lethe = await openSession(identity, process.env);
  try {
    const print = (value: unknown, text: () => string): void => console.log(json ? toJson(value) : text());
    process.exitCode = await work({ lethe, json, print });
  } finally {
    lethe.close();
  }
};

program
  .command('token')
  .description('sign a token with the profile’s key; for --tenant and --role')
  .option('--scope <scopes...>', 'scopes; all of them by default')
  .option('--ttl <seconds>', 'how long it is good', '3600')
  .action(async ({ scope, ttl }: { scope?: string[]; ttl: string }) => {
    if (!/^[1-9]\d{0,6}$/.test(ttl)) throw new UsageError('--ttl must be whole seconds');
    const identity = program.opts<IdentityOptions>();
    console.log(
      await mintToken(await readProfile(identity.profile, process.env), identity, scope ?? SCOPES, Number(ttl)),
    );
  });
addJobCommands(program, run);
addRunCommands(program, run);
addPurgeCommands(program, run);

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

/** One line on standard error, or one JSON object on standard output; answers the exit code. */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  const isUsage = error instanceof UsageError || (error instanceof Error && error.name === 'ExitPromptError');
  const told = isUsage ? { reason: 'USAGE', message: error.message, metadata: {} } : toLetheError(error);
  if (program.opts<{ json?: boolean }>().json) console.log(toJson({ error: told }));
  else console.error(`error: ${told.reason}: ${told.message}`);
  return isUsage ? EXIT.usage : EXIT.failed;
}
