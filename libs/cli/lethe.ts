#!/usr/bin/env node
import { once } from 'node:events';
import { input, password } from '@inquirer/prompts';
import envPaths from 'env-paths';
import { createLethe } from '#libs/client/lethe.ts';
import { runCli } from './run-cli.ts';
import { Unread } from './unread.ts';

// A reader that has seen enough, as in `lethe jobs list | head`, is no failure. What is written from then on is lost, and
// the command goes on: its exit code says what it did.
const unread = new AbortController();
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    if (stream === process.stdout) unread.abort(new Unread());
  });
}

// As the first process of a container it would ignore this one.
process.on('SIGTERM', () => {
  if (process.listenerCount('SIGTERM') === 1) process.exit(143);
});

process.exitCode = await runCli(process.argv.slice(2), {
  env: process.env,
  configFolder: envPaths('lethe', { suffix: '' }).config,
  out: (text) => console.log(text),
  err: (text) => console.error(text),
  async outBytes(bytes) {
    unread.signal.throwIfAborted();
    if (process.stdout.write(bytes)) return;
    await once(process.stdout, 'drain').catch((error: unknown) => {
      unread.signal.throwIfAborted();
      throw error;
    });
  },
  input: process.stdin,
  isInteractive: process.stdin.isTTY === true && process.stderr.isTTY === true,
  columns: process.stdout.isTTY === true ? process.stdout.columns : undefined,
  screen: process.stderr.isTTY === true ? process.stderr : undefined,
  ask: (message) => input({ message }, { output: process.stderr }),
  askSecret: (message) => password({ message, mask: '*' }, { output: process.stderr }),
  onInterrupt(listener) {
    process.once('SIGINT', listener).once('SIGTERM', listener);
    return () => process.off('SIGINT', listener).off('SIGTERM', listener);
  },
  onUnread: (listener) => unread.signal.addEventListener('abort', listener, { once: true }),
  open: createLethe,
});
// What an interrupted wait left open must not keep the program alive, nor a standard input that is silent.
if (process.exitCode === 130) process.exit();
process.stdin.destroy();
