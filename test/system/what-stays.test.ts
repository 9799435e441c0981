import { readFile } from 'node:fs/promises';
import { create, type DescMethod, fromJson, type JsonObject } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel as Level } from '@bufbuild/protobuf/wkt';
import anyTest, { type TestFn } from 'ava';
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
import { purge, putPlan } from '#test/support/aged-data.ts';
import { logFilesOf } from '#test/support/find-text.ts';
import { MARK, Marks, marksInDatabase, textFieldsOf } from '#test/support/marks.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { settled } from '#test/support/run-graph.ts';
import { filesBelow } from '#test/support/stored-files.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack();
});
test.after.always((t) => t.context.stack?.dispose());

const SERVICES = [JobService, RunService, IncidentService, RetentionService, ParticipantService, RetentionOwnerService];
const METHODS = SERVICES.flatMap(({ methods }) => methods as readonly DescMethod[]);

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
async function look(stack: TestStack): Promise<Map<string, string[]>> {
  const found = new Map<string, Set<string>>();
  const add = (mark: string, place: string): void => void found.set(mark, (found.get(mark) ?? new Set()).add(place));
  for (const service of SERVICE_NAMES) {
    for (const [mark, places] of await marksInDatabase(stack.superuserUrl(service)))
      for (const place of places) add(mark, `${service}.${place}`);
  }
  const inFiles = async (files: readonly string[], place: string): Promise<void> => {
    for (const file of files) {
      const content = `${file}\n${(await readFile(file)).toString('latin1')}`.toLowerCase();
      for (const [mark] of content.matchAll(MARK)) add(mark, place);
    }
  };
  await inFiles(await filesBelow(stack.objectFolder), 'the object store');
  await inFiles(await logFilesOf(stack), 'the logs');
  return new Map([...found].map(([mark, places]) => [mark, [...places].toSorted()]));
}

/** A request with a mark in every field that can hold text. */
function filled(method: DescMethod, markFor: (path: string) => string) {
  const json: Record<string, unknown> = {};
  const paths = textFieldsOf(method);
  for (const { path, kind } of paths) {
    const mark = markFor(`${method.name}.${path}`);
    const names = path.split('.');
    let message = method.input;
    let at: Record<string, unknown> = json;
    for (const [index, name] of names.entries()) {
      const field = message.fields.find((each) => each.name === name);
      if (!field) throw new Error(`${message.typeName} has no ${name}`);
      const isList = field.fieldKind === 'list';
      // Of a oneof only one can be sent: the first.
      if (field.oneof?.fields.some((other) => other !== field && other.jsonName in at)) break;
      if (index === names.length - 1) {
        const value = kind === 'json' ? { text: mark } : kind === 'bytes' ? Buffer.from(mark).toString('base64') : mark;
        at[field.jsonName] = isList ? [value] : value;
        break;
      }
      if (!field.message) throw new Error(`${path} goes through what is no message`);
      message = field.message;
      const known = at[field.jsonName] as Record<string, unknown> | Record<string, unknown>[] | undefined;
      const nested: Record<string, unknown> = (Array.isArray(known) ? known[0] : known) ?? {};
      at[field.jsonName] = isList ? [nested] : nested;
      at = nested;
    }
  }
  return fromJson(method.input, json as JsonObject);
}

test('every field of every RPC that takes text is known, and what a refused or reading call said stands nowhere', async (t) => {
  const { stack } = t.context;
  const marks = new Marks();
  const clients = {
    [JobService.typeName]: 'jobs',
    [RunService.typeName]: 'runs',
    [IncidentService.typeName]: 'incidents',
    [RetentionService.typeName]: 'retention',
  } as const;
  let refused = 0;
  for (const method of METHODS) {
    const name = clients[method.parent.typeName];
    if (!name) continue;
    for (const role of ['viewer', 'owner'] as const) {
      // biome-ignore lint/suspicious/noExplicitAny: the methods of all services, by name.
      const call = (stack.clients({ tenantId: 'what-refused', role })[name] as any)[method.localName];
      const request = filled(method, (field) => marks.put('refused', field));
      try {
        if (method.methodKind === 'server_streaming') for await (const _ of call(request));
        else if (method.methodKind === 'client_streaming') {
          await call(
            (async function* () {
              yield create(method.input, request);
            })(),
          );
        } else await call(request);
      } catch {
        refused += 1;
      }
    }
  }
  t.true(refused > 100);
  const found = [...(await look(stack))].filter(([mark]) => marks.isKnown(mark));
  t.deepEqual(
    found.map(([mark, places]) => [marks.of(mark).field, places]),
    [],
  );
});

type Kind = 'compensation' | 'job' | 'run' | 'age' | 'operators';

test('after each kind of deletion a text stands only where README says that it stays', async (t) => {
  t.timeout(300_000);
  const { stack } = t.context;
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
    const before = [...(await look(stack))].filter(([mark]) => marks.isKnown(mark) && marks.of(mark).kind === 'job');
    for (const place of ['job.jobs.display_name', 'job.job_tasks.error', 'job.artifacts.name', 'the object store'])
      t.true(
        before.some(([, places]) => places.includes(place)),
        `the search sees ${place}`,
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
  for (const [mark, places] of await look(stack)) {
    if (!marks.isKnown(mark)) continue;
    const kind = marks.of(mark).kind as Kind;
    found.set(kind, new Set([...(found.get(kind) ?? []), ...places]));
  }
  const told = whatStays(await readReadmes());
  for (const kind of ['compensation', 'job', 'run', 'age'] as const)
    t.deepEqual([...(found.get(kind) ?? [])].toSorted(), [...(told.get(kind) ?? [])].toSorted(), kind);
});

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
