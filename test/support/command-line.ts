import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { runCli } from '#libs/cli/run-cli.ts';
import { createLethe } from '#libs/client/lethe.ts';
import type { TestStack } from './test-stack.ts';

/** What a command line came to. */
export interface Outcome {
  readonly code: number;
  /** What was printed, line by line; with `--json` every line is checked to be one JSON value. */
  readonly out: string;
  readonly err: string;
  /** The questions that were asked. */
  readonly asked: readonly string[];
  /** What somebody who looks on saw of the progress. */
  readonly screen: string;
}

/** What is around a command line. */
export interface Surroundings {
  readonly env?: Readonly<Record<string, string>>;
  /** Somebody is there: this is what they type, question by question. */
  readonly typing?: readonly string[];
  readonly input?: AsyncIterable<Uint8Array>;
  /** How wide standard output is, if it is a terminal. */
  readonly columns?: number;
  /** Where the user's profiles are; a folder of the stack's by default. */
  readonly configFolder?: string;
  /** Ctrl-C is pressed once this is shown. */
  readonly interruptOn?: RegExp;
}

/** `lethe` in this process against a stack, as its user; `with` gives it other surroundings. */
export interface CommandLine {
  (...args: string[]): Promise<Outcome>;
  with(surroundings: Surroundings): (...args: string[]) => Promise<Outcome>;
}

const TOKEN = /eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+/;

/** Makes it. It throws when a command prints a key, or a token that `lethe token` was not asked for. */
export async function makeCommandLine(stack: TestStack): Promise<CommandLine> {
  const profile = join(stack.folder, 'cli.json');
  await writeFile(profile, JSON.stringify({ addresses: stack.addresses, keyFile: stack.userKeyFile, actor: 'ada' }));
  const { d: secret } = JSON.parse(await readFile(stack.userKeyFile, 'utf8')) as { d: string };

  const run = async (args: readonly string[], surroundings: Surroundings): Promise<Outcome> => {
    const { env = {}, typing, input, columns, interruptOn, configFolder = join(stack.folder, 'config') } = surroundings;
    const out: string[] = [];
    const err: string[] = [];
    const asked: string[] = [];
    let shown = '';
    let isOver = false;
    let press: (() => void) | undefined;
    const look = (): void => {
      if (press && interruptOn?.test([...out, ...err, shown].join('\n'))) press();
    };
    const write = (chunk: Buffer, _: string, done: () => void): void => {
      // Nobody would see the end of it: the uncaught error fails the test's file.
      if (isOver) throw new Error(`lethe ${args.join(' ')} draws when it is over: ${chunk}`);
      shown += chunk;
      look();
      done();
    };
    const screen = Object.assign(new Writable({ write }), { isTTY: true, columns: 120 });
    const answers = [...(typing ?? [])];
    const ask = async (question: string): Promise<string> => {
      asked.push(question);
      return answers.shift() ?? '';
    };
    const code = await runCli(['--profile', profile, ...args], {
      env,
      configFolder,
      columns,
      out(text) {
        out.push(text);
        look();
      },
      err(text) {
        err.push(text);
        look();
      },
      async outBytes(bytes) {
        out.push(Buffer.from(bytes).toString('latin1'));
      },
      input: input ?? (async function* () {})(),
      isInteractive: typing !== undefined,
      screen: typing === undefined ? undefined : screen,
      ask,
      askSecret: ask,
      onInterrupt(listener) {
        press = listener;
        look();
        return () => {
          press = undefined;
        };
      },
      onUnread: () => undefined,
      open: createLethe,
    });
    isOver = true;
    const outcome = { code, out: out.join('\n'), err: err.join('\n'), asked, screen: shown };
    if (args.includes('--json') || args.includes('json')) for (const line of out) parsedLine(line);
    const printed = [outcome.out, outcome.err, outcome.screen, ...asked].join('\n');
    if (printed.includes(secret)) throw new Error(`lethe ${args.join(' ')} printed the private key`);
    if (!args.includes('token') && TOKEN.test(printed)) throw new Error(`lethe ${args.join(' ')} printed a token`);
    return outcome;
  };
  return Object.assign((...args: string[]) => run(args, {}), {
    with:
      (surroundings: Surroundings) =>
      (...args: string[]) =>
        run(args, surroundings),
  });
}

/** A line of `--json` as what it holds. */
export function parsedLine(line: string): ReturnType<typeof JSON.parse> {
  if (line.includes('\n')) throw new Error(`more than one line: ${line}`);
  return JSON.parse(line);
}
