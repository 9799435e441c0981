import type { Command } from 'commander';
import { OwnerBoxError, readOwnerFile } from '#libs/owner-box/parse-file.ts';
import { addExamples } from '../example.ts';
import { type GlobalOptions, isJson } from '../global-options.ts';
import { toJson } from '../output.ts';
import type { Terminal } from '../terminal.ts';
import { UsageError } from '../usage-error.ts';

const EXAMPLE = `
The file names tables whose rows age, in YAML or JSON:

  database:
    url_from: MAIL_DATABASE_URL              # environment variables; no secret is in the file
    owner_url_from: MAIL_DATABASE_OWNER_URL  # may be left out; for prepare
  subjects:
    - name: messages
      resource_type: message
      table: mail.messages
      tenant: tenant_id
      instant: sent_at        # a row without an instant is never purged
      instant_zone: UTC       # only for timestamp without time zone, which is read as UTC
      id: [mailbox, number]   # what tells a tenant's rows apart
      floor: true             # the newest rows can be kept whatever their age
      dependents:             # go with a row, and are counted
        - table: mail.attachments
          resource_type: attachment
          columns: {tenant_id: tenant_id, mailbox: mailbox, message: number}

Examples:
  lethe owner check mail.yaml
  lethe owner prepare mail.yaml
  LETHE_OWNER_NAME=mail LETHE_TRUST_FILE=trust.json lethe owner serve mail.yaml`;

/** `lethe owner …`: lets Lethe purge the tables of an existing Postgres database. */
export function addOwnerCommands(program: Command, terminal: Terminal): void {
  const owner = program
    .command('owner')
    .description('serve existing Postgres tables to RetentionService')
    .addHelpText('after', EXAMPLE);

  addExamples(
    owner
      .command('check <file>')
      .description('say what keeps the tables from being served; changes nothing')
      .action((path: string) =>
        told(terminal, program, async () => {
          const { checkOwnerBox } = await import('#libs/owner-box/serve.ts');
          const { tables, remarks } = await checkOwnerBox(await readOwnerFile(path), terminal.env);
          return { remarks, done: `${tables.map(({ table }) => table).join(', ')} can be served` };
        }),
      ),
    'lethe owner check mail.yaml',
  );

  addExamples(
    owner
      .command('prepare <file>')
      .description('make the schema lethe_owner, in which the owner keeps what it has counted')
      .action((path: string) =>
        told(terminal, program, async () => {
          const { prepareOwnerBox } = await import('#libs/owner-box/prepare.ts');
          const role = await prepareOwnerBox(await readOwnerFile(path), terminal.env);
          return { remarks: [], done: `lethe_owner in ${role.database} is ready for ${role.name}` };
        }),
      ),
    'lethe owner prepare mail.yaml',
  );

  addExamples(
    owner
      .command('serve <file>')
      .description('serve the tables until SIGTERM; refuses to with all problems named')
      .action((path: string) =>
        told(terminal, program, async () => {
          const { runOwnerBox } = await import('#libs/owner-box/serve.ts');
          await runOwnerBox(await readOwnerFile(path), terminal.env);
          return undefined;
        }),
      ),
    'LETHE_OWNER_NAME=mail LETHE_TRUST_FILE=trust.json lethe owner serve mail.yaml',
  );
}

/** Prints what was done; every problem on a line of its own where it was not. */
async function told(
  terminal: Terminal,
  program: Command,
  work: () => Promise<{ remarks: readonly string[]; done: string } | undefined>,
): Promise<void> {
  const json = isJson(program.opts<GlobalOptions>());
  try {
    const answer = await work();
    if (!answer) return;
    if (json) return terminal.out(toJson(answer));
    for (const remark of answer.remarks) terminal.err(`note: ${remark}`);
    terminal.out(answer.done);
  } catch (error) {
    if (!(error instanceof OwnerBoxError)) throw error;
    if (!json) for (const problem of error.problems) terminal.err(`problem: ${problem}`);
    const many = error.problems.length === 1 ? '1 problem' : `${error.problems.length} problems`;
    throw new UsageError(json ? error.message : `${error.what} has ${many}`);
  }
}
