import { type Command, Option } from 'commander';
import { SCOPES } from '#libs/auth/policy.ts';
import type { Terminal } from '../context.ts';
import { toJson } from '../output.ts';
import { wholeNumber } from '../parse.ts';
import { askOf, type IdentityOptions, mintToken, readProfile } from '../session.ts';

const MAX_TTL_SECONDS = 30 * 86_400;

/** `lethe token`, the one command that prints a secret. */
export function addTokenCommand(program: Command, terminal: Terminal): void {
  program
    .command('token')
    .description('sign a token with the key, for local use')
    .addOption(new Option('--scope <scopes...>', 'scopes; all of them by default').choices([...SCOPES]))
    .option('--ttl <seconds>', 'how long it is good', wholeNumber({ min: 1, max: MAX_TTL_SECONDS }), 3_600)
    .action(async ({ scope, ttl }: { scope?: string[]; ttl: number }) => {
      const { json, ...identity } = program.opts<IdentityOptions & { json?: true }>();
      const profile = await readProfile(identity, terminal.env);
      const options = { ttlSeconds: ttl, ...(scope ? { scopes: scope } : {}) };
      const token = await mintToken(profile, identity, terminal.env, askOf(terminal), options);
      terminal.out(json ? toJson({ token }) : token);
    });
}
