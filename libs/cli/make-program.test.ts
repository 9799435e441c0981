import test from 'ava';
import { type Command, CommanderError } from 'commander';
import { LetheError } from '#libs/client/lethe.ts';
import { REASONS } from '#libs/client/reasons.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { makeProgram } from './make-program.ts';
import { nextStepOf } from './next-steps.ts';
import type { Terminal } from './terminal.ts';

const OWN = new Set(['completion', 'complete']);

/** The tree of commands around a terminal on which nothing is shown. */
function makeQuietProgram(): Command {
  const terminal = { env: {}, configFolder: '/nowhere', out: () => undefined, err: () => undefined };
  return makeProgram(terminal as unknown as Terminal, async () => undefined);
}

const pathOf = (command: Command): string =>
  command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name();

const everyCommand = (command: Command): Command[] => [command, ...command.commands.flatMap(everyCommand)];

const isVerb = (command: Command): boolean => command.commands.length === 0;

function helpOf(command: Command): string {
  let help = '';
  command.configureOutput({
    writeOut: (text) => {
      help += text;
    },
  });
  command.outputHelp();
  return help;
}

/** A line of shell as words: quotes hold words together, a variable is some id, and a comment or a pipe ends it. */
function wordsOf(line: string): string[] {
  const words: string[] = [];
  const token = /'([^']*)'|"([^"]*)"|([^\s'"]+)/g;
  let end = -1;
  for (const match of line.matchAll(token)) {
    const text = (match[1] ?? match[2] ?? match[3] ?? '').replaceAll(/\$\w+/g, '018f6b1e-7c1a-7000-8000-000000000001');
    if (match[3] !== undefined && /^(\||<|>|<<|\|\||&&|&|#)/.test(match[3])) break;
    if (match.index === end) words[words.length - 1] += text;
    else words.push(text);
    end = match.index + match[0].length;
  }
  return words;
}

/** What is wrong with a command line; undefined where it would be done. Nothing is done. */
async function problemWith(words: readonly string[]): Promise<string | undefined> {
  const program = makeQuietProgram();
  const parsed = new Error('parsed');
  program.hook('preAction', () => {
    throw parsed;
  });
  try {
    await program.parseAsync([...words], { from: 'user' });
    return 'it names no verb';
  } catch (error) {
    if (error === parsed || (error instanceof CommanderError && error.exitCode === 0)) return undefined;
    return (error as Error).message;
  }
}

test('no option takes an empty value, which would stand for everything', async (t) => {
  const takers = everyCommand(makeQuietProgram()).flatMap((command) =>
    command.options.filter(({ required }) => required).map(({ long }) => [pathOf(command), long ?? ''] as const),
  );
  t.true(takers.length > 100);
  for (const [path, long] of takers) {
    const verbs = path.split(' ').slice(1);
    const expected = new RegExp(`^${long} is empty$|${long} .*' argument '[ ,]*' is invalid|is none$`);
    for (const value of ['', ' ', ',']) {
      t.regex((await problemWith([...verbs, long, value])) ?? 'done', expected, `${path} ${long} '${value}'`);
      t.regex((await problemWith([...verbs, `${long}=${value}`])) ?? 'done', expected, `${path} ${long}=${value}`);
    }
  }
});

test('every verb says what it does and has examples, each of which is a command line of that verb', async (t) => {
  for (const command of everyCommand(makeQuietProgram())) {
    if (command.name() === 'complete') continue;
    const path = pathOf(command);
    t.truthy(command.description(), path);
    const help = helpOf(command);
    if (!isVerb(command)) continue;
    const [, examples = ''] = /^Examples:\n([\s\S]*?)(?:\n\n|$)/m.exec(help) ?? [];
    const lines = examples.split('\n').map((line) => line.trim());
    t.true(lines.length > 0 && lines[0] !== '', `${path} has an example`);
    if (OWN.has(command.name())) continue;
    for (const line of lines) {
      const at = line.indexOf('lethe ');
      t.true(at >= 0, line);
      const words = wordsOf(line.slice(at + 'lethe '.length));
      t.true(
        path
          .split(' ')
          .slice(1)
          .every((word) => words.includes(word)),
        `${line} is of ${path}`,
      );
      t.is(await problemWith(words), undefined, line);
    }
  }
});

test('every command line in the README names a verb and options that there are', async (t) => {
  const readme = await readReadmes();
  const blocks = [...readme.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, text = '']) => text.replaceAll('\\\n', ' '));
  const lines = blocks.flatMap((text) =>
    [...text.matchAll(/(?:npm run --silent lethe -- |(?:^|\$\()(?:[A-Z_]+=\S+ )*lethe )(.*?)(?=\)"?$|$)/gm)].map(
      ([, args = '']) => args,
    ),
  );
  t.true(lines.length > 20, 'the README shows command lines');
  for (const line of lines) t.is(await problemWith(wordsOf(line)), undefined, line);
  const spoken = [...readme.matchAll(/`lethe ([a-z][^`]*)`/g)].map(([, text = '']) => wordsOf(text));
  for (const words of spoken) {
    const names = words.slice(0, words.findIndex((word) => !/^[a-z]+$/.test(word)) >>> 0);
    let command: Command | undefined = makeQuietProgram();
    for (const name of names) {
      if (isVerb(command)) break;
      command = command.commands.find((each) => each.name() === name);
      if (!command) break;
    }
    t.truthy(command, `lethe ${words.join(' ')}`);
    for (const flag of words.filter((word) => /^--[a-z]/.test(word))) {
      t.true(hasFlag(command, flag.split('=')[0] ?? ''), `lethe ${words.join(' ')}`);
    }
  }
});

const hasFlag = (command: Command | null | undefined, flag: string): boolean =>
  command != null && (command.options.some(({ long }) => long === flag) || hasFlag(command.parent, flag));

test('what a next step tells to type is a command that there is', (t) => {
  const source = Object.values(REASONS)
    .map(({ next }) => next)
    .join('\n');
  const told = [...source.matchAll(/`lethe ([a-z ]+)/g)].map(([, names = '']) => names.trim().split(' '));
  t.true(told.length > 20);
  for (const names of told) {
    let command: Command | undefined = makeQuietProgram();
    for (const name of names) {
      if (!command || isVerb(command)) break;
      command = command.commands.find((each) => each.name() === name);
    }
    t.truthy(command, names.join(' '));
  }
  const step = nextStepOf(new LetheError('ABORTED', 'OPERATION_IN_PROGRESS', '', { metadata: { operation_id: 'x' } }));
  t.regex(step ?? '', /lethe deletions watch x/);
});
