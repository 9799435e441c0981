import type { Command } from 'commander';
import type { PurgeStop } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { instantOf } from '../output.ts';
import { toLine } from '../table.ts';
import { UsageError } from '../usage-error.ts';

/** Where the stop switch stands, in one line. */
export function stopText({ isStopped, actor, changeTime, reason }: PurgeStop): string {
  if (isStopped) return toLine(`purges are stopped since ${instantOf(changeTime)} by ${actor}: ${reason}`);
  if (!changeTime) return 'purges are not stopped';
  return toLine(`purges are not stopped; resumed at ${instantOf(changeTime)} by ${actor}: ${reason}`);
}

/** `lethe stop` and `lethe resume`: the switch that keeps everything from being purged by age. */
export function addStopCommands(program: Command, run: Run): void {
  addExamples(
    program
      .command('stop')
      .description('stop every purge by age, running ones within a batch, until `lethe resume`')
      .option('--reason <reason>', 'why, for those who wait and for the audit', '')
      .option('--status', 'only tell where the switch stands', false)
      .action(({ reason, status }: { reason: string; status: boolean }) =>
        run(async ({ lethe, print }) => {
          if (status === (reason.trim() !== '')) throw new UsageError('give either --reason or --status');
          const { stopSwitch } = lethe.retention;
          const stop = status ? await stopSwitch.get() : await stopSwitch.stop({ reason });
          print(stop, () => stopText(stop));
        }),
      ),
    "lethe stop --reason 'the counts look wrong'",
    'lethe stop --status',
  );

  addExamples(
    program
      .command('resume')
      .description('lift the stop; purges that waited go on')
      .requiredOption('--reason <reason>', 'why, for the audit')
      .action((options: { reason: string }) =>
        run(async ({ lethe, print }) => {
          const stop = await lethe.retention.stopSwitch.resume(options);
          print(stop, () => stopText(stop));
        }),
      ),
    "lethe resume --reason 'they were right'",
  );
}
