import type { Command } from 'commander';
import type { Run } from './context.ts';
import { type GlobalOptions, isJson } from './global-options.ts';
import { Interrupted } from './interrupted.ts';
import { makeProgram } from './make-program.ts';
import { EXIT, toJson } from './output.ts';
import { makeProgress } from './progress.ts';
import { reportError } from './report-error.ts';
import { askOf, identityOf, openCredential, readProfile } from './session.ts';
import { render, type Text } from './table.ts';
import type { Terminal } from './terminal.ts';
import { Unread } from './unread.ts';

/** Runs one command line, without the program's name, and answers with its exit code. It never throws. */
export async function runCli(args: readonly string[], terminal: Terminal): Promise<number> {
  let exit: number = EXIT.ok;
  let command: Command | undefined;
  const program = makeProgram(terminal, (work) => run(work));

  const run: Run = async (work) => {
    const given = program.opts<GlobalOptions>();
    const profile = await readProfile(given, terminal.env, terminal.configFolder);
    const options = identityOf(given, profile);
    const credential = await openCredential(profile, options, terminal.env, askOf(terminal));
    const lethe = terminal.open({ ...profile.addresses, credential: credential.token, tls: profile.tls });
    const progress = makeProgress(isJson(options) ? undefined : terminal.screen);
    const print = (value: unknown, text: () => Text): void => {
      progress.stop();
      terminal.out(isJson(options) ? toJson(value) : render(text(), terminal.columns));
    };
    let advice = '';
    const { role } = credential;
    const working = work({
      lethe,
      tenant: options.tenant,
      role,
      profile,
      token: credential.token,
      terminal,
      progress,
      print,
      goesOn(what) {
        advice = what;
      },
    });
    const interrupt = (): void => {
      progress.end();
      // Calls under way fail, by which the work puts away what it has half done, such as a part of a file.
      lethe.close();
    };
    try {
      // A watch has nothing to do but to show what others do; whatever changes something goes on without a reader.
      const shown = command?.name() === 'watch' ? whileRead(terminal, working) : working;
      exit = (await unlessInterrupted(terminal, shown, interrupt, () => advice)) ?? EXIT.ok;
    } finally {
      progress.end();
      lethe.close();
    }
  };

  program.hook('preAction', (_, action) => {
    command = action;
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exit;
  } catch (error) {
    return reportError(error, command, terminal, wantsJson(args));
  }
}

/** Where the command line cannot be parsed, the options are not known. */
const wantsJson = (args: readonly string[]): boolean =>
  args.some(
    (arg, at) => arg === '--json' || arg === '--output=json' || (arg === '--output' && args[at + 1] === 'json'),
  );

/** What the work answers with; Unread as soon as nobody reads what it prints. */
const whileRead = <T>(terminal: Terminal, working: Promise<T>): Promise<T> =>
  Promise.race([
    working,
    new Promise<never>((_, reject) => {
      terminal.onUnread(() => reject(new Unread()));
    }),
  ]);

const SETTLE_MS = 1_000;

/** What the work answers with; after Ctrl-C Interrupted, as soon as the work has ended but at most a second later. */
async function unlessInterrupted<T>(
  terminal: Terminal,
  working: Promise<T>,
  interrupt: () => void,
  advice: () => string,
): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  let timer: NodeJS.Timeout | undefined;
  const release = terminal.onInterrupt(() => {
    timer = setTimeout(() => reject(new Interrupted(advice())), SETTLE_MS);
    interrupt();
  });
  try {
    return await Promise.race([working, late]);
  } catch (error) {
    throw timer ? new Interrupted(advice()) : error;
  } finally {
    clearTimeout(timer);
    release();
  }
}
