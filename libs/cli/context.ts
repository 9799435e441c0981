import type { Lethe } from '#libs/client/lethe.ts';
import type { Role } from '#libs/kernel/caller.ts';
import type { Progress } from './progress.ts';
import type { Profile } from './session.ts';
import type { Text } from './table.ts';
import type { Terminal } from './terminal.ts';

/** What a command works with. */
export interface CommandContext {
  readonly lethe: Lethe;
  /** The tenant of `--tenant`: in which somebody acts. */
  readonly tenant: string | undefined;
  /** The role that calls are made with; undefined where a given token does not tell. */
  readonly role: Role | undefined;
  /** Where the services are, and where that is from. */
  readonly profile: Profile;
  /** The bearer token of the next call. */
  token(): Promise<string>;
  readonly terminal: Terminal;
  /** How it goes, on standard error; silent where nobody looks. */
  readonly progress: Progress;
  /** Prints one result: as one line of JSON with `--output json`, else what `text` makes of it. */
  print(value: unknown, text: () => Text): void;
  /** What to say when Ctrl-C ends a wait for work that goes on without it, such as how to see it or to stop it. */
  goesOn(advice: string): void;
}

/**
 * Does a command's work with an open SDK and closes it whatever happens. The work answers with the exit code, or with
 * nothing for `EXIT.ok`.
 */
export type Run = (work: (context: CommandContext) => Promise<number | undefined>) => Promise<void>;
