import { Command, Option } from 'commander';
import { ROLES } from '#libs/auth/keys.ts';
import { VERSION } from '#libs/service/version.ts';
import { addApprovalCommands } from './commands/approvals.ts';
import { addAuditCommand } from './commands/audit.ts';
import { addBulkCommands } from './commands/bulk.ts';
import { addCheckCommands } from './commands/checks.ts';
import { addCompletionCommand } from './commands/completion.ts';
import { addDeletionCommands } from './commands/deletions.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addEnvironmentCommands } from './commands/environments.ts';
import { addExecutionCommands } from './commands/executions.ts';
import { addIncidentCommands } from './commands/incidents.ts';
import { addJobCommands } from './commands/jobs.ts';
import { addLoginCommand } from './commands/login.ts';
import { addOrphanCommand } from './commands/orphans.ts';
import { addOverdueCommand } from './commands/overdue.ts';
import { addOwnerCommands } from './commands/owner.ts';
import { addParkedCommand } from './commands/parked.ts';
import { addParticipantCommands } from './commands/participants.ts';
import { addPlanCommands } from './commands/plans.ts';
import { addPolicyCommands } from './commands/policies.ts';
import { addProfileCommands } from './commands/profiles.ts';
import { addPurgeCommand } from './commands/purge.ts';
import { addPurgesCommands } from './commands/purges.ts';
import { addRunCommands } from './commands/runs.ts';
import { addStopCommands } from './commands/stop.ts';
import { addSubjectCommands } from './commands/subjects.ts';
import { addTenantCommands } from './commands/tenants.ts';
import { addTokenCommand } from './commands/token.ts';
import type { Run } from './context.ts';
import { addExamples } from './example.ts';
import { tenantId } from './parse.ts';
import type { Terminal } from './terminal.ts';
import { UsageError } from './usage-error.ts';

const HELP = `
Who calls: LETHE_TOKEN; or the file that LETHE_TOKEN_FILE names, read at each call; or tokens signed with the private
key of --key, LETHE_SERVICE_KEY or the profile, in the name of --as, LETHE_ACTOR, the profile or $USER.
Where to: LETHE_RUN_ADDRESS, LETHE_JOB_ADDRESS, LETHE_INCIDENT_ADDRESS and LETHE_RETENTION_ADDRESS, or the profile.
How: LETHE_TLS_CA, LETHE_TLS_CLIENT_CERT and LETHE_TLS_CLIENT_KEY, or tls of the profile; in plaintext without.

Exit codes:
  0    done
  1    failed, or refused by a service
  2    not tried: nothing was sent, or only what changes nothing
  3    done in part: something went, something is left or still under way
  4    held: a retention purge would remove more than the ceiling allows, and waits for an approval
  130  interrupted by Ctrl-C; what a service has begun goes on`;

/** Makes the whole tree of commands. */
export function makeProgram(terminal: Terminal, run: Run): Command {
  const program = new Command('lethe')
    .description("Ends data's life on purpose, and proves it.")
    .version(VERSION, '--version', 'print the version')
    .option('--profile <profile>', "a profile's name, or a file; .lethe/cli.json or the profile in use by default")
    .option('--key <file>', 'a private JWK that signs tokens')
    .option('--tenant <tenant>', 'act in this tenant, as its owner; without it as platform', tenantId)
    .addOption(new Option('--role <role>', 'act with this role').choices([...ROLES]))
    .option('--as <person>', 'who acts, for the audit')
    .option('--tls-ca <file>', 'speak TLS with services that this authority vouches for; system for the usual ones')
    .option('--tls-cert <file>', 'the certificate to call with')
    .option('--tls-key <file>', 'its private key')
    .addOption(
      new Option('--output <format>', 'how results are printed; json is one line for each')
        .choices(['table', 'json'])
        .default('table'),
    )
    .option('--json', 'the same as --output json')
    .addHelpText('after', HELP)
    .addHelpText('afterAll', ({ command }) =>
      command.parent ? '\nWho calls, where to and how to print: lethe --help' : '',
    )
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.out(text.trimEnd()),
      writeErr: (text) => terminal.err(text.trimEnd()),
      outputError: () => undefined, // Told by reportError.
    });
  addExamples(program, 'lethe --tenant acme runs list', 'lethe purge --all --wait', 'lethe --version');
  addRunCommands(program, run);
  addJobCommands(program, run);
  addDeletionCommands(program, run);
  addBulkCommands(program, run);
  addExecutionCommands(program, run);
  addEnvironmentCommands(program, run);
  addCheckCommands(program, run);
  addIncidentCommands(program, run);
  addApprovalCommands(program, run);
  addPlanCommands(program, run);
  addTenantCommands(program, run);
  addPolicyCommands(program, run);
  addPurgeCommand(program, run);
  addPurgesCommands(program, run);
  addStopCommands(program, run);
  addSubjectCommands(program, run);
  addParticipantCommands(program, run);
  addOrphanCommand(program, run);
  addAuditCommand(program, run);
  addParkedCommand(program, run);
  addOverdueCommand(program, run);
  addDoctorCommand(program, run);
  addOwnerCommands(program, terminal);
  addTokenCommand(program, terminal);
  addLoginCommand(program, terminal);
  addProfileCommands(program, terminal);
  addCompletionCommand(program, terminal);
  refuseEmptyValues(program);
  return program;
}

/**
 * Refuses an option whose value is empty, in every command. A variable that a script forgot to set would otherwise widen
 * what is done: no name of a subject would stand for all subjects.
 */
function refuseEmptyValues(command: Command): void {
  for (const option of command.options) {
    command.on(`option:${option.name()}`, (value: unknown) => {
      if (typeof value === 'string' && /^[\s,]*$/.test(value)) throw new UsageError(`${option.long} is empty`);
    });
  }
  command.commands.forEach(refuseEmptyValues);
}
