import { type Command, Option } from 'commander';
import { SCOPES } from '#libs/auth/policy.ts';
import { addExamples } from '../example.ts';
import { type GlobalOptions, isJson } from '../global-options.ts';
import { toJson } from '../output.ts';
import { wholeNumber } from '../parse.ts';
import { askOf, identityOf, mintToken, readProfile } from '../session.ts';
import type { Terminal } from '../terminal.ts';

const MAX_TTL_SECONDS = 30 * 86_400;

/** `lethe token`, the one command that prints a secret. */
export function addTokenCommand(program: Command, terminal: Terminal): void {
  addExamples(
    program
      .command('token')
      .description('sign a token with the key, for local use')
      .addOption(new Option('--scope <scopes...>', 'scopes; all of them by default').choices([...SCOPES]))
      .option('--ttl <seconds>', 'how long it is good', wholeNumber({ min: 1, max: MAX_TTL_SECONDS }), 3_600)
      .action(async ({ scope, ttl }: { scope?: string[]; ttl: number }) => {
        const given = program.opts<GlobalOptions>();
        const profile = await readProfile(given, terminal.env, terminal.configFolder);
        const options = identityOf(given, profile);
        const limits = { ttlSeconds: ttl, ...(scope ? { scopes: scope } : {}) };
        const token = await mintToken(profile, options, terminal.env, askOf(terminal), limits);
        terminal.out(isJson(options) ? toJson({ token }) : token);
      }),
    'lethe --tenant acme token',
    'lethe --tenant acme --role viewer token --ttl 60 --scope jobs:read',
  );
}
