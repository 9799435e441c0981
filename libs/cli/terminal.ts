import type { Lethe, LetheOptions } from '#libs/client/lethe.ts';
import type { Environment } from '#libs/kernel/settings.ts';

/** What the command line has of the world around it. */
export interface Terminal {
  readonly env: Environment;
  /** The folder for what is kept for the user: profiles. */
  readonly configFolder: string;
  /** One line, or several, on standard output. */
  out(text: string): void;
  /** One line on standard error. */
  err(text: string): void;
  /** Bytes on standard output; resolves when more can be taken, and throws Unread when nobody will. */
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
  /** Calls the listener once, when nobody reads standard output any more. */
  onUnread(listener: () => void): void;
  /** Opens the SDK. */
  open(options: LetheOptions): Lethe;
}
