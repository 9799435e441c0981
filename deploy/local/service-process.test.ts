import test from 'ava';
import { runToEnd } from './service-process.ts';

const SETTINGS = [
  'LETHE_POLL_MS',
  'WORKFLOW_MIN_PURGE_AGE_HOURS',
  'RETENTION_JOB_SCHEDULE_CRON',
  'AWS_ACCESS_KEY_ID',
  'PGHOST',
] as const;

test.serial('no setting of the shell reaches a program of the stack, only those that it is given', async (t) => {
  for (const name of [...SETTINGS, 'FROM_THE_SHELL']) {
    const before = process.env[name];
    t.teardown(() => {
      if (before === undefined) delete process.env[name];
      else process.env[name] = before;
    });
    process.env[name] = '1';
  }
  const names = JSON.stringify([...SETTINGS, 'FROM_THE_SHELL']);
  const program = `console.log('has', ${names}.filter((name) => process.env[name])); process.exit(1)`;
  await t.throwsAsync(runToEnd(['-e', program], { PGHOST: '127.0.0.1' }), {
    message: /\nhas \[ 'PGHOST', 'FROM_THE_SHELL' \]\n/,
  });
});
