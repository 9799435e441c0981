import type { Lethe, LetheOptions } from '#libs/client/lethe.ts';
import type { Role } from '#libs/kernel/caller.ts';
import type { Environment } from '#libs/kernel/settings.ts';
import type { Progress } from './progress.ts';
import type { Profile } from './session.ts';
import type { Text } from './table.ts';

/** What the command line has of the world around it. */
export interface Terminal {
  readonly env: Environment;
  /** The folder for what is kept for the user: profiles. */
  readonly configFolder: string;
  /** One line, or several, on standard output. */
  out(text: string): void;
  /** One line on standard error. */
  err(text: string): void;
  /** Bytes on standard output; resolves when more can be taken. */
  outBytes(bytes: Uint8Array): Promise<void>;
  readonly input: AsyncIterable<Uint8Array>;
  /** Whether somebody is there to answer a question. */
  readonly isInteractive: boolean;
  /** How wide standard output is; undefined where it is no terminal. */
  readonly columns: number | undefined;
  /** Standard error where it is shown to somebody, who then likes to see how it goes. */
  readonly screen: NodeJS.WritableStream | undefined;
  ask(question: string): Promise<string>;
  /** As ask, and what is typed is not shown. */
  askSecret(question: string): Promise<string>;
  /** Calls the listener on Ctrl-C or SIGTERM, once; the answer takes it back. */
  onInterrupt(listener: () => void): () => void;
  /** Opens the SDK. */
  open(options: LetheOptions): Lethe;
}

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

/** Does a command's work with an open SDK and closes it whatever happens. The work answers with the exit code. */
export type Run = (work: (context: CommandContext) => Promise<number>) => Promise<void>;
