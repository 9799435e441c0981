import { open, rename, rm, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Command } from 'commander';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind, type Job, JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { confirmByTyping } from '../confirm.ts';
import type { CommandContext, Run } from '../context.ts';
import { EXIT, firstOf, instantOf, nameOf, toLine, toTable } from '../output.ts';
import { enumNames, enumValue, wholeNumber } from '../parse.ts';
import { UsageError } from '../usage-error.ts';
import { countTable } from './deletions.ts';

const rowOf = (job: Job) => [job.id, nameOf(JobState, job.state), job.displayName, instantOf(job.createTime)];
const tableOf = (jobs: readonly Job[]) => toTable(['JOB', 'STATE', 'NAME', 'CREATED'], jobs.map(rowOf));
const STATES = enumNames(JobState).join(', ');
const KINDS = enumNames(ArtifactKind).join(', ');
const parseLimit = wholeNumber({ min: 1, max: 1_000_000_000 });

/** `lethe jobs …`. */
export function addJobCommands(program: Command, run: Run): void {
  const jobs = program.command('jobs').description('transcription jobs');

  jobs
    .command('create')
    .description('print the id of a new job')
    .option('--name <name>', 'a name for people', '')
    .option('--run <id>', 'the run whose effect it is', '')
    .option('--task <names...>', 'its tasks in order')
    .action((options: { name: string; run: string; task?: string[] }) =>
      run(async ({ lethe, print }) => {
        const { name: displayName, run: runId, task: taskNames = [] } = options;
        const job = await lethe.jobs.create({ displayName, runId, taskNames });
        print(job, () => job.id);
        return EXIT.ok;
      }),
    );

  jobs
    .command('list')
    .description('newest first')
    .option('--state <state>', `one of ${STATES}`, enumValue(JobState))
    .option('--run <id>', 'only effects of this run')
    .option('--show-deleted', 'also those that were hidden with their run', false)
    .option('--limit <count>', 'no more than so many', parseLimit)
    .action((options: { state?: JobState; run?: string; showDeleted: boolean; limit?: number }) =>
      run(async ({ lethe, print }) => {
        const { state, run: runId, showDeleted, limit } = options;
        const filter = { showDeleted, ...(state ? { state } : {}), ...(runId ? { runId } : {}) };
        const found = await firstOf(lethe.jobs.list(filter), limit);
        print(found, () => tableOf(found));
        return EXIT.ok;
      }),
    );

  jobs
    .command('get <job>')
    .option('--show-deleted', 'also one that was hidden with its run', false)
    .action((jobId: string, options: { showDeleted: boolean }) =>
      run(async ({ lethe, print }) => {
        const job = await lethe.jobs.get(jobId, options);
        print(job, () => tableOf([job]));
        return EXIT.ok;
      }),
    );

  jobs
    .command('watch <job>')
    .description('until it has ended; fails when the job failed')
    .action((jobId: string) =>
      run(async ({ lethe, print }) => {
        let last: Job | undefined;
        for await (const job of lethe.jobs.watch(jobId)) {
          if (job.state !== last?.state) print(job, () => toLine(rowOf(job).join('  ')));
          last = job;
        }
        return last?.state === JobState.FAILED ? EXIT.failed : EXIT.ok;
      }),
    );

  jobs
    .command('cancel <job>')
    .option('--reason <reason>', 'why, for the audit', '')
    .action((jobId: string, options: { reason: string }) =>
      run(async ({ lethe, print }) => {
        const job = await lethe.jobs.cancel(jobId, options);
        print(job, () => tableOf([job]));
        return EXIT.ok;
      }),
    );

  jobs
    .command('upload <job> <file>')
    .description('upload an artifact; - reads standard input')
    .option('--kind <kind>', `one of ${KINDS}`, enumValue(ArtifactKind), ArtifactKind.INPUT)
    .option('--name <name>', 'its name; that of the file by default')
    .option('--content-type <type>', 'its media type', '')
    .option('--lease-token <token>', "the worker's lease", wholeNumber({ min: 1, max: Number.MAX_SAFE_INTEGER }))
    .action((jobId: string, file: string, options: UploadOptions) =>
      run((context) => upload(context, jobId, file, options)),
    );

  jobs
    .command('download <job> <name>')
    .description('download an artifact; the file is there when it is whole')
    .option('--kind <kind>', `one of ${KINDS}`, enumValue(ArtifactKind), ArtifactKind.OUTPUT)
    .option('--out <file>', "where to; - writes standard output; the artifact's name by default")
    .option('--force', 'replace a file that is there', false)
    .action((jobId: string, name: string, options: { kind: ArtifactKind; out?: string; force: boolean }) =>
      run((context) => download(context, jobId, { name, ...options })),
    );

  jobs
    .command('delete <job>')
    .description('delete a finished job and its artifacts for good')
    .option('--reason <reason>', 'why, for the audit', '')
    .option('--allow-missing', 'do well when there is no such job', false)
    .option('--no-wait', 'only until it is committed')
    .option('--dry-run', 'show what would go', false)
    .option('--yes', 'do not ask', false)
    .action((jobId: string, options: DeleteOptions) =>
      run(async ({ lethe, terminal, progress, print }) => {
        if (options.dryRun) {
          const preview = await lethe.jobs.previewDelete(jobId);
          print(preview, () => countTable(preview));
          return EXIT.ok;
        }
        await confirmByTyping(terminal, `Deleting the job ${jobId}`, jobId, options.yes);
        const { reason, allowMissing } = options;
        progress.update(0, 1, 'deleting');
        const deletion = await lethe.jobs.delete(jobId, {
          reason,
          allowMissing,
          ...(options.wait ? {} : { waitMs: 0 }),
        });
        const rest = deletion?.runId
          ? `\nthe run ${deletion.runId} keeps what it holds itself, until it is purged: lethe runs purge`
          : '';
        print(deletion, () => `${jobId} ${deletion ? nameOf(DeletionState, deletion.state) : 'is not there'}${rest}`);
        return !options.wait || !deletion || deletion.state === DeletionState.COMPLETE ? EXIT.ok : EXIT.partial;
      }),
    );
}

interface DeleteOptions {
  readonly reason: string;
  readonly allowMissing: boolean;
  readonly wait: boolean;
  readonly dryRun: boolean;
  readonly yes: boolean;
}

interface UploadOptions {
  readonly kind: ArtifactKind;
  readonly name?: string;
  readonly contentType: string;
  readonly leaseToken?: number;
}

async function upload(
  { lethe, terminal, progress, print }: CommandContext,
  jobId: string,
  file: string,
  { kind, name, contentType, leaseToken }: UploadOptions,
): Promise<number> {
  if (file === '-' && name === undefined) throw new UsageError('standard input has no name; add --name');
  const handle = file === '-' ? undefined : await open(file).catch(() => undefined);
  if (file !== '-' && !handle) throw new UsageError(`${file} cannot be read`);
  try {
    const total = (await handle?.stat())?.size ?? 0;
    const source: AsyncIterable<Uint8Array> = handle?.createReadStream({ autoClose: false }) ?? terminal.input;
    const body = async function* () {
      let sent = 0;
      for await (const bytes of source) {
        yield bytes;
        sent += bytes.length;
        progress.update(sent, Math.max(total, sent), 'bytes');
      }
    };
    const lease = leaseToken === undefined ? {} : { leaseToken: BigInt(leaseToken) };
    const header = { kind, name: name ?? basename(file), contentType, ...lease };
    const artifact = await lethe.jobs.upload(jobId, header, body());
    print(artifact, () => `${toLine(artifact.name)} ${artifact.sizeBytes} bytes`);
    return EXIT.ok;
  } finally {
    await handle?.close();
  }
}

async function download(
  { lethe, terminal, progress, print }: CommandContext,
  jobId: string,
  { name, kind, out = basename(name), force }: { name: string; kind: ArtifactKind; out?: string; force: boolean },
): Promise<number> {
  const isThere = out !== '-' && (await stat(out).then(Boolean, () => false));
  if (isThere && !force) throw new UsageError(`${out} is there already; add --force to replace it`);
  if (out === '-') {
    const { body } = await lethe.jobs.download(jobId, { name, kind });
    for await (const bytes of body) await terminal.outBytes(bytes);
    return EXIT.ok;
  }
  // A download that breaks off must not look like a whole one.
  const part = `${out}.part`;
  const handle = await open(part, 'w').catch(() => undefined);
  if (!handle) throw new UsageError(`${part} cannot be written`);
  try {
    const { artifact, body } = await lethe.jobs.download(jobId, { name, kind });
    let received = 0;
    for await (const bytes of body) {
      await handle.writeFile(bytes);
      received += bytes.length;
      progress.update(received, Number(artifact.sizeBytes), 'bytes');
    }
    await handle.close();
    await rename(part, out);
    print(artifact, () => `${out} ${artifact.sizeBytes} bytes`);
    return EXIT.ok;
  } catch (error) {
    await handle.close();
    await rm(part, { force: true });
    throw error;
  }
}
