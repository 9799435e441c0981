import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  PutObjectCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import type { DescMethod } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel as Level } from '@bufbuild/protobuf/wkt';
import type { ExecutionContext } from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { SERVICE_NAMES } from '#deploy/local/stack.ts';
import { BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { ApprovalState, DriftStatus, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { ArtifactKind, JobState, TaskState } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { WindowKind } from '#gen/lethe/retention/v1/retention_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { purge, putPlan } from './aged-data.ts';
import { readAllTexts } from './bucket-texts.ts';
import type { CephGateway } from './ceph-gateway.ts';
import { logFilesOf } from './find-text.ts';
import { MARK, Marks, marksInDatabase, textFieldsOf } from './marks.ts';
import { queryOnce } from './postgres.ts';
import { readReadmes } from './readmes.ts';
import { settled } from './run-graph.ts';
import { AREAS, filesBelow } from './stored-files.ts';
import { type TestStack, until } from './test-stack.ts';

/** Where JobService keeps its objects, read and written past the service. */
export interface SearchedStore {
  /** All that it holds, as text: names, headers and contents, of old versions and unfinished uploads too. */
  texts(): Promise<readonly string[]>;
  /** Leaves texts wherever the store takes one, under a job's prefix, as crashes and direct writers do. */
  leaveBehind(prefix: string, textFor: (place: string) => string): Promise<void>;
}

/** The file store of a stack. */
export const inFolder = ({ objectFolder }: Pick<TestStack, 'objectFolder'>): SearchedStore => ({
  async texts() {
    const files = await filesBelow(objectFolder);
    return Promise.all(files.map(async (file) => `${file}\n${await readFile(file, 'latin1')}`));
  },
  async leaveBehind(prefix, textFor) {
    for (const area of AREAS) {
      const path = join(objectFolder, area, prefix, 'input', textFor(`name in ${area}`), 'left');
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, textFor(`content in ${area}`));
    }
  },
});

/** All buckets of a gateway; what is left behind goes into one of them. */
export const inGateway = (gateway: CephGateway, bucket: string): SearchedStore => ({
  texts: () => readAllTexts(gateway),
  async leaveBehind(prefix, textFor) {
    const { s3 } = gateway;
    const at = (kind: string) => ({ Bucket: bucket, Key: `${prefix}input/${textFor(`key of ${kind}`)}` });
    const told = {
      Metadata: { note: textFor('metadata') },
      Tagging: `note=${textFor('tag')}`,
      ContentDisposition: `attachment; filename="${textFor('disposition')}"`,
      ContentType: `text/${textFor('media type')}`,
    };
    const version = at('a version');
    await s3.send(new PutObjectCommand({ ...version, ...told, Body: textFor('content of an old version') }));
    await s3.send(new PutObjectCommand({ ...version, Body: textFor('content of a version') }));
    await s3.send(new DeleteObjectCommand(version));
    await s3.send(new DeleteObjectCommand(at('a marker alone')));
    const upload = at('an upload');
    const { UploadId } = await s3.send(new CreateMultipartUploadCommand(upload));
    await s3.send(new UploadPartCommand({ ...upload, UploadId, PartNumber: 1, Body: 'a part' }));
  },
});

const SERVICES = [JobService, RunService, IncidentService, RetentionService, ParticipantService, RetentionOwnerService];
/** Every RPC of the four services and of their contracts with others. */
export const METHODS = SERVICES.flatMap(({ methods }) => methods as readonly DescMethod[]);

/** Fields that cannot hold a text of the caller's. What is not here has to be marked. */
const NOT_FREE: readonly (readonly [pattern: RegExp, why: string])[] = [
  [/(^|\.)(?!worker_id$)(\w+_)?ids?$/, 'an id'],
  [/(^|\.)(page_token|etag|cursor)$/, 'opaque: what Lethe gave'],
  [/^UpdatePlan\.windows\.(plan|actor|reason)$/, 'only in answers; ignored or compared in requests'],
  [/\.(subjects?|windows\.subject)$/, 'the name of a subject in the catalogue'],
  [
    /^(ConfirmSubject|RetireSubject|ConfirmParticipant|RetireParticipant)\.name$/,
    'the name of what the installation has',
  ],
  [/^SetTenantPlan\.plan_name$/, 'the name of a plan'],
  [/^RecordStep\.participants$/, 'the name of what the installation has'],
  [/^StartRun\.workflow$/, 'the name of a workflow that Lethe does'],
  [/^UpdateTask\.task_name$/, 'the name of a task of the job'],
];

/** RPCs between services: what they carry is what RunService or RetentionService was given, and marked there. */
const BETWEEN_SERVICES: readonly string[] = [ParticipantService.typeName, RetentionOwnerService.typeName];

const isRead = (method: DescMethod): boolean => method.idempotency === Level.NO_SIDE_EFFECTS;

/** The fields that a caller can write text into, as `CreateJob.display_name`. */
const freeFields = (): readonly string[] =>
  METHODS.filter((method) => !isRead(method) && !BETWEEN_SERVICES.includes(method.parent.typeName)).flatMap((method) =>
    textFieldsOf(method)
      .map(({ path }) => `${method.name}.${path}`)
      .filter((field) => !NOT_FREE.some(([pattern]) => pattern.test(field))),
  );

/** Where each mark stands, in all databases, the objects and the logs. */
export async function placesOfMarks(stack: TestStack, store: SearchedStore): Promise<Map<string, string[]>> {
  const found = new Map<string, Set<string>>();
  const add = (mark: string, place: string): void => void found.set(mark, (found.get(mark) ?? new Set()).add(place));
  for (const service of SERVICE_NAMES) {
    for (const [mark, places] of await marksInDatabase(stack.superuserUrl(service)))
      for (const place of places) add(mark, `${service}.${place}`);
  }
  const inTexts = (texts: readonly string[], place: string): void => {
    for (const text of texts) for (const [mark] of text.toLowerCase().matchAll(MARK)) add(mark, place);
  };
  inTexts(await store.texts(), THE_STORE);
  const logs = await logFilesOf(stack);
  inTexts(await Promise.all(logs.map((file) => readFile(file, 'latin1'))), 'the logs');
  return new Map([...found].map(([mark, places]) => [mark, [...places].toSorted()]));
}

type Kind = 'compensation' | 'job' | 'run' | 'age' | 'operators';

const THE_STORE = 'the object store';
const LEFT_BEHIND = 'left behind: ';

/**
 * Puts a mark into every field that takes text, deletes in every way that there is, and asserts that the marks stand
 * only where README's table says so.
 */
export async function deleteInEveryWay(t: ExecutionContext, stack: TestStack, store: SearchedStore): Promise<void> {
  const marks = new Marks();
  const put = (kind: Kind, field: string): string => marks.put(kind, field);
  const unless = (call: Promise<unknown>): Promise<unknown> => call.catch(() => undefined);
  const adminOf = (tenantId: string) => stack.clients({ tenantId, role: 'owner' });

  /** A job with text in all that it takes, ended by a worker or cancelled. */
  const addJob = async (kind: Kind, tenantId: string, of: { runId?: string; step?: string } = {}): Promise<string> => {
    const { jobs } = adminOf(tenantId);
    const task = put(kind, 'CreateJob.task_names');
    const displayName = put(kind, 'CreateJob.display_name');
    const step = of.step ?? (of.runId ? put(kind, 'CreateJob.step') : '');
    const { job } = await jobs.createJob({ displayName, taskNames: [task], runId: of.runId ?? '', step });
    const jobId = job?.id ?? '';
    await uploadArtifact(jobs, jobId, {
      kind: ArtifactKind.INPUT,
      name: `${put(kind, 'UploadArtifact.header.name')}.txt`,
      contentType: `text/${put(kind, 'UploadArtifact.header.content_type')}`,
      content: Buffer.from(put(kind, 'UploadArtifact.chunk')),
    });
    await store.leaveBehind(`tenants/${tenantId}/jobs/${jobId}/`, (place) => put(kind, `${LEFT_BEHIND}${place}`));
    const { leaseToken } = await jobs.claimJob({ workerId: put(kind, 'ClaimJob.worker_id') });
    const claim = { jobId, leaseToken };
    const error = put(kind, 'UpdateTask.error');
    await jobs.updateTask({ ...claim, taskName: task, state: TaskState.FAILED, error });
    await jobs.finishJob({ ...claim, state: JobState.FAILED, error: put(kind, 'FinishJob.error') });
    return jobId;
  };

  /** An incident with text in all that it takes. */
  const addIncident = async (
    kind: Kind,
    tenantId: string,
    of: { environmentId: string; runId?: string; step?: string },
  ): Promise<string> => {
    const { incidents } = adminOf(tenantId);
    const { incident } = await incidents.openIncident({
      environmentId: of.environmentId,
      title: put(kind, 'OpenIncident.title'),
      driftSummary: { text: put(kind, 'OpenIncident.drift_summary') },
      runId: of.runId ?? '',
      step: of.step ?? '',
    });
    const incidentId = incident?.id ?? '';
    const note = put(kind, 'TransitionIncident.note');
    await incidents.transitionIncident({ incidentId, state: IncidentState.ACKNOWLEDGED, note });
    const { approval } = await incidents.requestApproval({
      incidentId,
      requestedState: IncidentState.STABILIZED,
      notes: put(kind, 'RequestApproval.notes'),
    });
    const notes = put(kind, 'DecideApproval.notes');
    await incidents.decideApproval({ approvalId: approval?.id ?? '', decision: ApprovalState.APPROVED, notes });
    return incidentId;
  };

  const environmentIn = async (tenantId: string, displayName = newId()): Promise<string> =>
    (await adminOf(tenantId).incidents.createEnvironment({ displayName })).environment?.id ?? '';

  const untilOver = async (tenantId: string, runId: string) => {
    let state: RunState = RunState.UNSPECIFIED;
    for await (const { run } of adminOf(tenantId).runs.watchRun({ runId })) state = run?.state ?? state;
    return state;
  };

  /** A run of a caller with a step, a job and an incident. */
  const addRun = async (kind: Kind, tenantId: string): Promise<string> => {
    const { runs } = adminOf(tenantId);
    const { run } = await runs.createRun({
      workflow: put(kind, 'CreateRun.workflow'),
      displayName: put(kind, 'CreateRun.display_name'),
      input: { text: put(kind, 'CreateRun.input') },
    });
    const runId = run?.id ?? '';
    const ofJob = put(kind, 'CreateJob.step');
    await runs.recordStep({ runId, name: ofJob, state: StepState.RUNNING, participants: ['job'] });
    await addJob(kind, tenantId, { runId, step: ofJob });
    const ofIncident = put(kind, 'OpenIncident.step');
    await runs.recordStep({ runId, name: ofIncident, state: StepState.RUNNING, participants: ['incident'] });
    const environmentId = await environmentIn(tenantId);
    await addIncident(kind, tenantId, { environmentId, runId, step: ofIncident });
    const name = put(kind, 'RecordStep.name');
    await runs.recordStep({ runId, name, state: StepState.FAILED, error: put(kind, 'RecordStep.error') });
    return runId;
  };

  // A compensation: of a run that Lethe did, of one that its caller says has failed, and of one that is cancelled.
  const undone = 'what-undone';
  {
    const { runs } = adminOf(undone);
    const text = (field: string) => `${put('compensation', 'StartRun.input')} ${field}`;
    const { run } = await runs.startRun({
      workflow: 'client_to_delivery',
      displayName: put('compensation', 'StartRun.display_name'),
      input: {
        environment_id: await environmentIn(undone),
        force_qc_fail: true,
        brief: {
          client: text('client'),
          product: text('product'),
          audience: text('audience'),
          tone: text('tone'),
          goals: [text('goal')],
          channels: [put('compensation', 'StartRun.input')],
        },
      },
    });
    t.is(await untilOver(undone, run?.id ?? ''), RunState.COMPENSATED);
    const failed = await addRun('compensation', undone);
    await runs.failRun({ runId: failed, error: put('compensation', 'FailRun.error') });
    t.is(await untilOver(undone, failed), RunState.COMPENSATED);
    const cancelled = await addRun('compensation', undone);
    await runs.cancelRun({ runId: cancelled, reason: put('compensation', 'CancelRun.reason') });
    t.is(await untilOver(undone, cancelled), RunState.CANCELLED);
    await unless(runs.retryRun({ runId: cancelled, reason: put('compensation', 'RetryRun.reason') }));
  }

  // A job's deletion.
  const jobless = 'what-jobs';
  {
    const { jobs } = adminOf(jobless);
    const ended = await addJob('job', jobless, { runId: newId() });
    const before = [...(await placesOfMarks(stack, store))].filter(
      ([mark]) => marks.isKnown(mark) && marks.of(mark).kind === 'job',
    );
    for (const place of ['job.jobs.display_name', 'job.job_tasks.error', 'job.artifacts.name', THE_STORE])
      t.true(
        before.some(([, places]) => places.includes(place)),
        `the search sees ${place}`,
      );
    const seen = before.filter(([, places]) => places.includes(THE_STORE)).map(([mark]) => marks.of(mark).field);
    const left = [...marks.fields()].filter((field) => field.startsWith(LEFT_BEHIND));
    t.deepEqual(
      left.filter((field) => !seen.includes(field)),
      [],
      'the search sees all that was left behind',
    );
    const { job } = await jobs.createJob({ taskNames: ['a'] });
    await jobs.cancelJob({ jobId: job?.id ?? '', reason: put('job', 'CancelJob.reason') });
    for (const jobId of [ended, job?.id ?? '']) {
      const { deletion } = await jobs.deleteJob({ jobId, reason: put('job', 'DeleteJob.reason') });
      const deletionId = deletion?.id ?? '';
      await until('the job is gone', async () => (await jobs.getDeletion({ deletionId })).deletion?.state === 4);
      await unless(jobs.redriveDeletion({ deletionId, reason: put('job', 'RedriveDeletion.reason') }));
    }
    await addJob('job', jobless, {});
    const all = { filter: { states: [JobState.FAILED, JobState.CANCELLED] }, reason: put('job', 'DeleteJobs.reason') };
    const { bulkDeletion } = await jobs.deleteJobs(all);
    const bulkDeletionId = bulkDeletion?.id ?? '';
    await until('every job is gone', async () => {
      return (await jobs.getBulkDeletion({ bulkDeletionId })).bulkDeletion?.state === BulkDeletionState.COMPLETE;
    });
    await unless(jobs.cancelBulkDeletion({ bulkDeletionId, reason: put('job', 'CancelBulkDeletion.reason') }));
  }

  // A run's purge, after it was hidden, brought back and hidden again.
  const purged = 'what-runs';
  {
    const { runs } = adminOf(purged);
    const well = await addRun('run', purged);
    await runs.finishRun({
      runId: well,
      state: RunState.COMPLETED,
      output: { text: put('run', 'FinishRun.output') },
    });
    const badly = await addRun('run', purged);
    await runs.finishRun({ runId: badly, state: RunState.FAILED, error: put('run', 'FinishRun.error') });
    for (const runId of [well, badly]) {
      const hidden = await runs.deleteRun({ runId, reason: put('run', 'DeleteRun.reason') });
      await settled(stack, purged, hidden.deletion?.id);
      const shown = await runs.undeleteRun({ runId, reason: put('run', 'UndeleteRun.reason') });
      await settled(stack, purged, shown.deletion?.id);
      const again = await runs.deleteRun({ runId, reason: put('run', 'DeleteRun.reason') });
      await settled(stack, purged, again.deletion?.id);
      const { deletion } = await runs.purgeRun({ runId, reason: put('run', 'PurgeRun.reason') });
      t.is((await settled(stack, purged, deletion?.id)).state, 4);
      const reason = put('run', 'RedriveDeletion.reason');
      await unless(runs.redriveDeletion({ deletionId: deletion?.id ?? '', reason }));
    }
    await runs.finishRun({ runId: await addRun('run', purged), state: RunState.COMPLETED });
    for (const filter of [{ states: [RunState.COMPLETED] }, { workflow: put('run', 'PurgeRuns.filter.workflow') }]) {
      const { bulkDeletion } = await runs.purgeRuns({ filter, reason: put('run', 'PurgeRuns.reason') });
      const bulkDeletionId = bulkDeletion?.id ?? '';
      await until('every run is gone', async () => {
        return (await runs.getBulkDeletion({ bulkDeletionId })).bulkDeletion?.state === BulkDeletionState.COMPLETE;
      });
      await unless(runs.cancelBulkDeletion({ bulkDeletionId, reason: put('run', 'CancelBulkDeletion.reason') }));
    }
  }

  // A retention purge.
  const aged = 'what-age';
  {
    const { runs, incidents, retention } = adminOf(aged);
    const environmentId = await environmentIn(aged, put('age', 'CreateEnvironment.display_name'));
    await incidents.recordDriftCheck({
      environmentId,
      status: DriftStatus.DRIFT,
      summary: { text: put('age', 'RecordDriftCheck.summary') },
      workflows: [{ workflow: put('age', 'RecordDriftCheck.workflows.workflow'), flag: 1 }],
    });
    await addIncident('age', aged, { environmentId });
    await runs.recordExecutions({
      executions: [
        {
          id: newId(),
          workflow: put('age', 'RecordExecutions.executions.workflow'),
          status: put('age', 'RecordExecutions.executions.status'),
        },
      ],
    });
    for (const sql of [
      "update drift_checks set checked_at = now() - interval '400 days' where tenant_id = $1",
      `update incidents set state = 'CLOSED', close_cause = 'RESOLVED', closed_at = now() - interval '400 days'
       where tenant_id = $1`,
      "update approvals set decided_at = now() - interval '400 days' where tenant_id = $1",
    ])
      await queryOnce(stack.superuserUrl('incident'), sql, [aged]);
    await queryOnce(
      stack.superuserUrl('run'),
      "update executions set started_at = now() - interval '400 days' where tenant_id = $1",
      [aged],
    );
    await putPlan(stack, aged, 'PRO');
    await retention.upsertExecutionPolicy({ retentionDays: 1, minExecutionsToKeep: 0n });
    await purge(stack, { tenantIds: [aged], reason: put('age', 'Purge.reason') });
    await retention.purgeNow({ reason: put('age', 'PurgeNow.reason') });
  }

  // What operators say of plans, purges and the installation: history, which no deletion is about.
  {
    const { retention, jobs, runs } = stack.clients({ role: 'platform' });
    const plan = put('operators', 'UpdatePlan.name').toUpperCase();
    const reason = (field: string): { reason: string } => ({ reason: put('operators', field) });
    const windows = [{ subject: 'drift_checks', kind: WindowKind.DAYS, retentionDays: 30 }];
    await retention.updatePlan({ name: plan, allowMissing: true, windows, ...reason('UpdatePlan.reason') });
    await retention.setTenantPlan({ tenantId: 'what-plans', planName: plan, ...reason('SetTenantPlan.reason') });
    await retention.stopPurges(reason('StopPurges.reason'));
    await retention.resumePurges(reason('ResumePurges.reason'));
    await unless(retention.confirmSubject({ name: 'drift_checks', ...reason('ConfirmSubject.reason') }));
    await unless(retention.retireSubject({ name: 'drift_checks', ...reason('RetireSubject.reason') }));
    await unless(retention.approveHeldPurge({ purgeId: newId(), ...reason('ApproveHeldPurge.reason') }));
    await unless(runs.confirmParticipant({ name: 'job', ...reason('ConfirmParticipant.reason') }));
    await unless(runs.retireParticipant({ name: 'job', ...reason('RetireParticipant.reason') }));
    for await (const _ of jobs.sweepOrphans({ tenantIds: ['what-plans'], ...reason('SweepOrphans.reason') }));
  }

  t.deepEqual(
    freeFields().filter((field) => !marks.fields().has(field)),
    [],
    'every free field was marked',
  );

  const found = new Map<Kind, Set<string>>();
  for (const [mark, places] of await placesOfMarks(stack, store)) {
    if (!marks.isKnown(mark)) continue;
    const kind = marks.of(mark).kind as Kind;
    found.set(kind, new Set([...(found.get(kind) ?? []), ...places]));
  }
  const told = whatStays(await readReadmes());
  for (const kind of ['compensation', 'job', 'run', 'age'] as const)
    t.deepEqual([...(found.get(kind) ?? [])].toSorted(), [...(told.get(kind) ?? [])].toSorted(), kind);
}

/** README's table: in which places text stays after which kind of deletion. */
function whatStays(readme: string): Map<Kind, Set<string>> {
  const section = readme.split('# What stays after a deletion\n')[1]?.split(/\n#{1,3} /)[0] ?? '';
  const kinds: readonly Kind[] = ['compensation', 'job', 'run', 'age'];
  const told = new Map<Kind, Set<string>>();
  for (const row of section.split('\n').filter((line) => /^\| (?!-|what stays)/.test(line))) {
    const [, , where = '', ...marksOf] = row.split('|').map((cell) => cell.trim());
    const places = [...where.matchAll(/`([a-z_.]+)`/g)].map(([, place = '']) => place);
    if (/the logs/.test(where)) places.push('the logs');
    for (const [index, kind] of kinds.entries())
      if (marksOf[index] === 'yes') told.set(kind, new Set([...(told.get(kind) ?? []), ...places]));
  }
  return told;
}
