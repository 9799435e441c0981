import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import { DeletionState, Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Job, JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { confirmByTyping } from '../confirm.ts';
import type { Run } from '../lethe.ts';
import { EXIT, instantOf, nameOf, toTable } from '../output.ts';
import { UsageError } from '../session.ts';

const WATCH_MS = 500;
const TERMINAL: readonly JobState[] = [JobState.CANCELLED, JobState.COMPLETED, JobState.FAILED];

const rowOf = (job: Job) => [job.id, nameOf(JobState, job.state), job.displayName, instantOf(job.createTime)];
const tableOf = (jobs: readonly Job[]) => toTable(['JOB', 'STATE', 'NAME', 'CREATED'], jobs.map(rowOf));

/** `lethe jobs …` and `lethe orphans`. */
export function addJobCommands(program: Command, run: Run): void {
  const jobs = program.command('jobs').description('transcription jobs');

  jobs
    .command('create')
    .option('--name <name>', 'a name for people', '')
    .option('--run <id>', 'the run whose effect it is', '')
    .option('--task <names...>', 'its tasks in order')
    .action((options: { name: string; run: string; task?: string[] }) =>
      run(async ({ lethe, print }) => {
        const request = { displayName: options.name, runId: options.run, taskNames: options.task ?? [] };
        const { job } = await lethe.services.job.createJob(request);
        print(job, () => job?.id ?? '');
        return EXIT.ok;
      }),
    );

  jobs
    .command('list')
    .option('--state <state>', 'PENDING, RUNNING, CANCELLING, CANCELLED, COMPLETED or FAILED')
    .action(({ state }: { state?: string }) =>
      run(async ({ lethe, print }) => {
        const value = state === undefined ? JobState.UNSPECIFIED : JobState[state as keyof typeof JobState];
        if (value === undefined) throw new UsageError(`${state} is no state of a job`);
        const found = await Array.fromAsync(lethe.jobs.list({ state: value }));
        print(found, () => tableOf(found));
        return EXIT.ok;
      }),
    );

  jobs.command('get <job>').action((jobId: string) =>
    run(async ({ lethe, print }) => {
      const { job } = await lethe.services.job.getJob({ jobId });
      print(job, () => tableOf(job ? [job] : []));
      return EXIT.ok;
    }),
  );

  jobs
    .command('watch <job>')
    .description('until it has ended')
    .action((jobId: string) =>
      run(async ({ lethe, print }) => {
        for (let shown: JobState | undefined; ; ) {
          const { job } = await lethe.services.job.getJob({ jobId });
          if (job && job.state !== shown) print(job, () => rowOf(job).join('  '));
          shown = job?.state;
          if (shown !== undefined && TERMINAL.includes(shown)) return shown === JobState.FAILED ? EXIT.failed : EXIT.ok;
          await delay(WATCH_MS);
        }
      }),
    );

  jobs.command('cancel <job>').action((jobId: string) =>
    run(async ({ lethe, print }) => {
      const { job } = await lethe.services.job.cancelJob({ jobId });
      print(job, () => tableOf(job ? [job] : []));
      return EXIT.ok;
    }),
  );

  jobs
    .command('delete <job>')
    .description('delete a finished job and its artifacts for good')
    .option('--reason <reason>', 'why, for the audit', '')
    .option('--dry-run', 'show what would go', false)
    .option('--yes', 'do not ask', false)
    .action((jobId: string, options: { reason: string; dryRun: boolean; yes: boolean }) =>
      run(async ({ lethe, print }) => {
        if (options.dryRun) {
          const { deletion } = await lethe.services.job.deleteJob({
            jobId,
            reason: options.reason,
            validateOnly: true,
          });
          const counts = deletion?.participants.flatMap(({ resourceCounts }) => resourceCounts) ?? [];
          print(deletion, () =>
            toTable(
              ['WOULD GO', 'COUNT'],
              counts.map((c) => [c.resourceType, String(c.found)]),
            ),
          );
          return EXIT.ok;
        }
        await confirmByTyping('Deleting a job', jobId, options.yes);
        const deletion = await lethe.jobs.delete(jobId, { reason: options.reason });
        print(deletion, () => `${jobId} ${nameOf(DeletionState, deletion?.state ?? 0)}`);
        return deletion?.state === DeletionState.COMPLETE ? EXIT.ok : EXIT.partial;
      }),
    );

  program
    .command('orphans')
    .description('objects without a job; found by default, removed with --sweep')
    .option('--sweep', 'remove them', false)
    .option('--reason <reason>', 'why, for the audit', '')
    .option('--min-age-hours <hours>', 'pass over what is younger', '24')
    .option('--yes', 'do not ask', false)
    .action((options: { sweep: boolean; reason: string; minAgeHours: string; yes: boolean }) =>
      run(async ({ lethe, print }) => {
        if (!/^[1-9]\d{0,5}$/.test(options.minAgeHours)) throw new UsageError('--min-age-hours must be whole hours');
        if (options.sweep) await confirmByTyping('Removing orphans', 'orphans', options.yes);
        const minAge = { seconds: BigInt(options.minAgeHours) * 3_600n, nanos: 0 };
        const request = { allTenants: true, validateOnly: !options.sweep, reason: options.reason, minAge };
        let exit: number = EXIT.failed;
        for await (const { event } of lethe.services.job.sweepOrphans(request)) {
          if (event.case === 'tenant') {
            const { tenantId, orphans, jobsWithoutObjects, error } = event.value;
            const found = orphans.reduce((sum, count) => sum + count.found, 0n);
            print(
              event.value,
              () => error || `${tenantId}: ${found} orphans, ${jobsWithoutObjects} jobs without objects`,
            );
          }
          if (event.case === 'summary') exit = event.value.progress === Progress.COMPLETE ? EXIT.ok : EXIT.partial;
        }
        return exit;
      }),
    );
}
