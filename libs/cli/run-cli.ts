import { Command, CommanderError, Option } from 'commander';
import { ROLES } from '#libs/auth/keys.ts';
import { LetheError, toLetheError } from '#libs/client/lethe.ts';
import { TENANT_ROLES } from '#libs/kernel/caller.ts';
import { addAuditCommand } from './commands/audit.ts';
import { addDeletionCommands } from './commands/deletions.ts';
import { addExecutionCommands } from './commands/executions.ts';
import { addJobCommands } from './commands/jobs.ts';
import { addOrphanCommand } from './commands/orphans.ts';
import { addOwnerCommands } from './commands/owner.ts';
import { addParticipantCommands } from './commands/participants.ts';
import { addPlanCommands, addTenantCommands } from './commands/plans.ts';
import { addPolicyCommands } from './commands/policies.ts';
import { addPurgeCommand } from './commands/purge.ts';
import { addPurgesCommands } from './commands/purges.ts';
import { addRunCommands } from './commands/runs.ts';
import { addStopCommands } from './commands/stop.ts';
import { addSubjectCommands } from './commands/subjects.ts';
import { addTokenCommand } from './commands/token.ts';
import type { Run, Terminal } from './context.ts';
import { EXIT, toJson, toLine } from './output.ts';
import { makeProgress } from './progress.ts';
import { askOf, type IdentityOptions, openCredential, readProfile } from './session.ts';
import { UsageError } from './usage-error.ts';

const HELP = `
Who calls: LETHE_TOKEN; or the file that LETHE_TOKEN_FILE names, read at each call; or tokens signed with the private
key of --key, LETHE_SERVICE_KEY or the profile, in the name of --as, LETHE_ACTOR, the profile or $USER. Where to: LETHE_RUN_ADDRESS, LETHE_JOB_ADDRESS, LETHE_INCIDENT_ADDRESS
and LETHE_RETENTION_ADDRESS, or the profile. How: LETHE_TLS_CA, LETHE_TLS_CLIENT_CERT and LETHE_TLS_CLIENT_KEY, or tls of
the profile; in plaintext where none is set.

Exit codes:
  0  done
  1  failed, or refused by a service
  2  not tried: nothing was sent, or only what changes nothing
  3  done in part: something went, something is left or still under way
  4  held: a retention purge would remove more than the ceiling allows, and waits for an approval`;

/** What every command takes. */
interface GlobalOptions extends IdentityOptions {
  readonly json?: true;
}

/** Runs one command line, without the program's name, and answers with its exit code. It never throws. */
export async function runCli(args: readonly string[], terminal: Terminal): Promise<number> {
  let exit: number = EXIT.ok;
  const program = new Command('lethe')
    .description("Ends data's life on purpose, and proves it.")
    .option('--profile <file>', 'addresses and key; .lethe/cli.json by default')
    .option('--key <file>', 'a private JWK that signs tokens')
    .option('--tenant <tenant>', 'act in this tenant, as its owner; without it as platform')
    .addOption(new Option('--role <role>', 'act with this role').choices([...ROLES]))
    .option('--as <person>', 'who acts, for the audit')
    .option('--tls-ca <file>', 'speak TLS with services that this authority vouches for; system for the usual ones')
    .option('--tls-cert <file>', 'the certificate to call with')
    .option('--tls-key <file>', 'its private key')
    .option('--json', 'print each result as one line of JSON')
    .addHelpText('after', HELP)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.out(text.trimEnd()),
      writeErr: (text) => terminal.err(text.trimEnd()),
      outputError: () => undefined, // Told by report().
    });

  const run: Run = async (work, { asPlatform = false } = {}) => {
    const { json = false, ...identity } = program.opts<GlobalOptions>();
    const isInTenant = TENANT_ROLES.some((role) => role === identity.role);
    const caller = asPlatform && !isInTenant ? { ...identity, tenant: undefined } : identity;
    const profile = await readProfile(identity, terminal.env);
    const credential = await openCredential(profile, caller, terminal.env, askOf(terminal));
    const lethe = terminal.open({ ...profile.addresses, credential: credential.token, tls: profile.tls });
    const progress = makeProgress(json ? undefined : terminal.screen);
    const print = (value: unknown, text: () => string): void => {
      progress.stop();
      terminal.out(json ? toJson(value) : text());
    };
    try {
      exit = await work({ lethe, tenant: identity.tenant, role: credential.role, terminal, progress, print });
    } finally {
      progress.stop();
      lethe.close();
    }
  };
  addJobCommands(program, run);
  addOrphanCommand(program, run);
  addRunCommands(program, run);
  addDeletionCommands(program, run);
  addAuditCommand(program, run);
  addExecutionCommands(program, run);
  addPlanCommands(program, run);
  addTenantCommands(program, run);
  addPolicyCommands(program, run);
  addParticipantCommands(program, run);
  addSubjectCommands(program, run);
  addStopCommands(program, run);
  addPurgeCommand(program, run);
  addPurgesCommands(program, run);
  addOwnerCommands(program, terminal);
  addTokenCommand(program, terminal);

  try {
    await program.parseAsync([...args], { from: 'user' });
    return exit;
  } catch (error) {
    return report(error, terminal, args.includes('--json'));
  }
}

const NOT_SENT: ReadonlySet<string> = new Set(['USAGE', 'ADDRESS_MISSING', 'CERTIFICATE_UNUSABLE']);

/** One line on standard error, or one JSON object on standard output; answers with the exit code. */
function report(error: unknown, terminal: Terminal, json: boolean): number {
  // Help was asked for, or was shown since a subcommand is missing.
  if (error instanceof CommanderError && /^commander\.(help|version)/.test(error.code)) {
    return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  }
  const told = toTold(error);
  const { code, reason, metadata, violations } = told;
  const message = toLine(told.message);
  if (json) terminal.out(toJson({ error: { code, reason, message, metadata, violations } }));
  else terminal.err(`error: ${reason}: ${message}`);
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
