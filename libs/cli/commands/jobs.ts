import { open, rename, rm, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { type Deletion, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Artifact, ArtifactKind, type Job, JobState, JobView } from '#gen/lethe/job/v1/job_pb.ts';
import { confirmByTyping } from '../confirm.ts';
import type { CommandContext, Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { addAllMatching, isAllMatching, orderBulk } from '../order-bulk.ts';
import { EXIT, instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue, enumValues, instant, wholeNumber } from '../parse.ts';
import { makeTable, toLine, toTable } from '../table.ts';
import { UsageError } from '../usage-error.ts';
import { countTable } from './deletions.ts';

const rowOf = (job: Job) => [job.id, nameOf(JobState, job.state), job.displayName, instantOf(job.createTime)];
const tableOf = (jobs: readonly Job[]) => toTable(['JOB', 'STATE', 'NAME', 'CREATED'], jobs.map(rowOf));
const STATES = enumNames(JobState).join(', ');
const KINDS = enumNames(ArtifactKind).join(', ');
const SOME_JOB = '018f6b1e-7c1a-7000-8000-000000000003';

const artifactTable = makeTable<Artifact>({
  ARTIFACT: ({ name }) => name,
  KIND: ({ kind }) => nameOf(ArtifactKind, kind),
  BYTES: ({ sizeBytes }) => String(sizeBytes),
  TYPE: ({ contentType }) => contentType,
  CREATED: ({ createTime }) => instantOf(createTime),
});

/** `lethe jobs …`. */
export function addJobCommands(program: Command, run: Run): void {
  const jobs = program.command('jobs').description('transcription jobs');
  addJobReadCommands(jobs, run);
  addArtifactCommands(jobs, run);

  addExamples(
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
        }),
      ),
    'lethe --tenant acme jobs create --name call --task split transcribe',
  );

  addExamples(
    jobs
      .command('cancel <job>')
      .description('cancel a job that has not ended')
      .option('--reason <reason>', 'why, for the audit', '')
      .action((jobId: string, options: { reason: string }) =>
        run(async ({ lethe, print }) => {
          const job = await lethe.jobs.cancel(jobId, options);
          print(job, () => tableOf([job]));
        }),
      ),
    `lethe --tenant acme jobs cancel ${SOME_JOB} --reason 'not needed'`,
  );

  addExamples(
    addAllMatching(jobs.command('delete [job]'), 'job')
      .description('delete a finished job and its artifacts for good, or all that match')
      .option('--state <states...>', `in one of these states: ${STATES}`, enumValues(JobState))
      .option('--run <id>', 'effects of this run')
      .option('--since <instant>', 'created then or later', instant)
      .option('--until <instant>', 'created before', instant)
      .option('--reason <reason>', 'why, for the audit', '')
      .option('--allow-missing', 'do well when there is no such job', false)
      .option('--no-wait', 'only until it is committed')
      .option('--dry-run', 'show what would go', false)
      .option('--yes', 'do not ask', false)
      .action((jobId: string | undefined, options: DeleteOptions) =>
        run((context) => deleteJobs(context, jobId, options)),
      ),
    `lethe --tenant acme jobs delete ${SOME_JOB} --dry-run`,
    `lethe --tenant acme jobs delete ${SOME_JOB} --reason 'asked for'`,
    "lethe --tenant acme jobs delete --all-matching --state FAILED CANCELLED --reason 'tidying up'",
  );
}

function addJobReadCommands(jobs: Command, run: Run): void {
  addExamples(
    addLimit(jobs.command('list').description('newest first'))
      .option('--state <state>', `one of ${STATES}`, enumValue(JobState))
      .option('--run <id>', 'only effects of this run')
      .option('--show-deleted', 'also those that were hidden with their run', false)
      .action(({ state, run: runId, showDeleted, ...options }: JobListOptions) =>
        run(async (context) => {
          const filter = defined({ showDeleted, view: JobView.BASIC, state, runId });
          await printList(context, context.lethe.jobs.list(filter), options, tableOf);
        }),
      ),
    'lethe --tenant acme jobs list --state COMPLETED',
  );

  addExamples(
    jobs
      .command('get <job>')
      .description('one job')
      .option('--show-deleted', 'also one that was hidden with its run', false)
      .action((jobId: string, options: { showDeleted: boolean }) =>
        run(async ({ lethe, print }) => {
          const job = await lethe.jobs.get(jobId, options);
          print(job, () => tableOf([job]));
        }),
      ),
    `lethe --tenant acme jobs get ${SOME_JOB}`,
  );

  addExamples(
    jobs
      .command('watch <job>')
      .description('until it has ended; fails when the job failed')
      .action((jobId: string) =>
        run(async ({ lethe, print, goesOn }) => {
          let last: Job | undefined;
          goesOn(`The job goes on: \`lethe jobs cancel ${jobId}\` stops it.`);
          for await (const job of lethe.jobs.watch(jobId)) {
            if (job.state !== last?.state) print(job, () => toLine(rowOf(job).join('  ')));
            last = job;
          }
          return last?.state === JobState.FAILED ? EXIT.failed : EXIT.ok;
        }),
      ),
    `lethe --tenant acme jobs watch ${SOME_JOB}`,
  );
}

function addArtifactCommands(jobs: Command, run: Run): void {
  addExamples(
    addLimit(jobs.command('artifacts <job>').description('its artifacts by kind and name'))
      .option('--kind <kind>', `one of ${KINDS}`, enumValue(ArtifactKind))
      .option('--show-deleted', 'also of a job that was hidden with its run', false)
      .action((jobId: string, { kind, showDeleted, ...options }: ArtifactListOptions) =>
        run(async (context) => {
          const filter = defined({ showDeleted, kind });
          await printList(context, context.lethe.jobs.artifacts(jobId, filter), options, artifactTable);
        }),
      ),
    `lethe --tenant acme jobs artifacts ${SOME_JOB} --kind OUTPUT`,
  );

  addExamples(
    jobs
      .command('upload <job> <file>')
      .description('upload an artifact; - reads standard input')
      .option('--kind <kind>', `one of ${KINDS}`, enumValue(ArtifactKind), ArtifactKind.INPUT)
      .option('--name <name>', 'its name; that of the file by default')
      .option('--content-type <type>', 'its media type', '')
      .option('--lease-token <token>', "the worker's lease", wholeNumber({ min: 1, max: Number.MAX_SAFE_INTEGER }))
      .action((jobId: string, file: string, options: UploadOptions) =>
        run((context) => upload(context, jobId, file, options)),
      ),
    `lethe --tenant acme jobs upload ${SOME_JOB} call.wav --content-type audio/wav`,
    `lethe --tenant acme jobs upload ${SOME_JOB} - --name call.wav`,
  );

  addExamples(
    jobs
      .command('download <job> <name>')
      .description('download an artifact; the file is there when it is whole')
      .option('--kind <kind>', `one of ${KINDS}`, enumValue(ArtifactKind), ArtifactKind.OUTPUT)
      .option('--out <file>', "where to; - writes standard output; the artifact's name by default")
      .option('--force', 'replace a file that is there', false)
      .action((jobId: string, name: string, options: { kind: ArtifactKind; out?: string; force: boolean }) =>
        run((context) => download(context, jobId, { name, ...options })),
      ),
    `lethe --tenant acme jobs download ${SOME_JOB} transcript.json --out transcript.json`,
  );
}

function deleteJobs(context: CommandContext, jobId: string | undefined, options: DeleteOptions): Promise<number> {
  const { state, run: runId, since, until } = options;
  const filter = defined({ states: state && [...state], runId, minCreateTime: since, maxCreateTime: until });
  if (!isAllMatching(jobId, options, filter)) return deleteJob(context, jobId ?? '', options);
  const { jobs } = context.lethe;
  return orderBulk(context, {
    ...options,
    of: 'job',
    doing: 'Deleting',
    preview: () => jobs.previewDeleteAll(filter),
    send: (order) => jobs.deleteAll(filter, order),
  });
}

async function deleteJob(
  { lethe, terminal, progress, print, goesOn }: CommandContext,
  jobId: string,
  { reason, allowMissing, wait, dryRun, yes }: DeleteOptions,
): Promise<number> {
  if (dryRun) {
    const preview = await lethe.jobs.previewDelete(jobId);
    print(preview, () => countTable(preview));
    return EXIT.ok;
  }
  await confirmByTyping(terminal, `Deleting the job ${jobId}`, jobId, yes);
  progress.update(0, 1, 'deleting');
  goesOn(`If the deletion was committed it goes on: \`lethe deletions list --target ${jobId}\` shows it.`);
  const deletion = await lethe.jobs.delete(jobId, { reason, allowMissing, ...(wait ? {} : { waitMs: 0 }) });
  print(deletion, () => (deletion ? deletedText(jobId, deletion) : `${jobId} is not there`));
  return !wait || !deletion || deletion.state === DeletionState.COMPLETE ? EXIT.ok : EXIT.partial;
}

function deletedText(jobId: string, { id, state, runId }: Deletion): string {
  const rest = runId && `\nthe run ${runId} keeps what it holds itself, until it is purged: lethe runs purge ${runId}`;
  return `${jobId} ${nameOf(DeletionState, state)}\ndeletion ${id}${rest}`;
}

interface JobListOptions extends ListOptions {
  readonly state?: JobState;
  readonly run?: string;
  readonly showDeleted: boolean;
}

interface ArtifactListOptions extends ListOptions {
  readonly kind?: ArtifactKind;
  readonly showDeleted: boolean;
}

interface DeleteOptions {
  readonly allMatching: boolean;
  readonly state?: readonly JobState[];
  readonly run?: string;
  readonly since?: Timestamp;
  readonly until?: Timestamp;
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
