#!/usr/bin/env node
import { once } from 'node:events';
import { input } from '@inquirer/prompts';
import { createLethe } from '#libs/client/lethe.ts';
import { runCli } from './run-cli.ts';

// A reader that has seen enough, as in `lethe jobs list | head`, is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

process.exitCode = await runCli(process.argv.slice(2), {
  env: process.env,
  out: (text) => console.log(text),
  err: (text) => console.error(text),
  async outBytes(bytes) {
    if (!process.stdout.write(bytes)) await once(process.stdout, 'drain');
  },
  input: process.stdin,
  isInteractive: process.stdin.isTTY === true && process.stderr.isTTY === true,
  screen: process.stderr.isTTY === true ? process.stderr : undefined,
  ask: (message) => input({ message }, { output: process.stderr }),
  open: createLethe,
});
