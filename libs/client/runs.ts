import type { JsonObject, MessageInitShape } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { BulkDeletion, BulkDeletionPreview } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { type Deletion, DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Run, RunState, type RunStep, type RunView, type StepState } from '#gen/lethe/run/v1/run_pb.ts';
import type { PreviewPurgeRunResponse, RunFilterSchema, WatchRunResponse } from '#gen/lethe/run/v1/run_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type BulkDeletionOptions, type BulkDeletions, orderBulk, presentPreview } from './bulk-deletions.ts';
import { type CallOptions, sharedDeadline, splitCall, toTransport } from './call-options.ts';
import type { Deletions } from './deletions.ts';
import type { Services } from './services.ts';
import { changesOf, itemOf, listOf, present, untilLast } from './streams.ts';

/** What a run is to be. */
export interface NewRun extends CallOptions {
  readonly workflow: string;
  readonly displayName?: string;
  readonly input?: JsonObject;
  /** By default one of its own, so that a call that is sent again opens one run. */
  readonly requestId?: string;
}

/** How a run ended. */
export interface RunEnd extends CallOptions {
  readonly state: RunState;
  /** Why it failed; required for FAILED. */
  readonly error?: string;
  readonly output?: JsonObject;
  readonly etag?: string;
}

/** Where a step of a run stands that is done elsewhere. */
export interface StepRecord extends CallOptions {
  readonly name: string;
  /** RUNNING before its action, then COMPLETED or FAILED. */
  readonly state: StepState;
  /** The participants that hold its effects. */
  readonly participants?: readonly string[];
  /** Why it failed. */
  readonly error?: string;
}

/** How a run is to be hidden or brought back. */
export interface HideRunOptions extends CallOptions {
  /** Why, for tombstones and audit. */
  readonly reason?: string;
  readonly etag?: string;
  /** By default one of its own. */
  readonly requestId?: string;
  /** Check everything and change nothing; the deletion has no id. */
  readonly validateOnly?: boolean;
}

/** How a run is to be purged. */
export interface PurgeRunOptions extends HideRunOptions {
  /** Why, for the audit. */
  readonly reason: string;
  /** Override the age guard. For owners and platform. */
  readonly force?: boolean;
  /** Answer undefined where there is no such run, rather than throw RUN_NOT_FOUND. */
  readonly allowMissing?: boolean;
  /** Resolve when the purge is COMPLETE, STUCK or CANCELLED, and not when it is committed; `timeoutMs` bounds it all. */
  readonly wait?: boolean;
}

/** Which runs: conditions that are set must all match, and at least one must be. */
export type RunFilter = MessageInitShape<typeof RunFilterSchema>;

/** What to do to every run that matches. */
export interface BulkRunOptions extends CallOptions {
  /** Hide them, which can be taken back, rather than purge them. */
  readonly hide?: boolean;
  /** Override the age guard. For owners and platform. */
  readonly force?: boolean;
}

/** A run as it was at a moment. */
export interface RunSighting {
  readonly run: Run;
  /** All of its steps that have begun, in order. */
  readonly steps: readonly RunStep[];
}

/** Why a run is cancelled or gone on with, and in which state of it only. */
export interface RunOrder extends CallOptions {
  /** Why, for the audit. */
  readonly reason?: string;
  readonly etag?: string;
}

/** Workflow runs, done, undone, hidden, brought back and purged across all services. */
export interface Runs {
  /** Opens a run whose steps are done elsewhere. */
  create(run: NewRun): Promise<Run>;
  /** Begins a run of a workflow that Lethe does; resolves when its first step is committed. */
  start(run: NewRun): Promise<Run>;
  /** The run now and after each change, until it has ended. Survives a lost connection. */
  watch(
    runId: string,
    options?: CallOptions & { readonly showDeleted?: boolean; readonly view?: RunView },
  ): AsyncIterable<RunSighting>;
  /** Every step that has begun, in order. */
  steps(runId: string, options?: CallOptions & { readonly showDeleted?: boolean }): AsyncIterable<RunStep>;
  /** Stops a running run and compensates it; resolves when that is committed. */
  cancel(runId: string, order?: RunOrder): Promise<Run>;
  /** Gives a run whose compensation is parked its attempts anew; resolves when that is committed. */
  retry(runId: string, order?: RunOrder): Promise<Run>;
  /** Records a step of a run that `create` opened. */
  recordStep(runId: string, step: StepRecord): Promise<RunStep>;
  finish(runId: string, end: RunEnd): Promise<Run>;
  /** Says that a run failed whose effects are to be compensated; resolves when that is committed. */
  fail(runId: string, failure: CallOptions & { readonly error: string; readonly etag?: string }): Promise<Run>;
  get(runId: string, options?: CallOptions & { readonly showDeleted?: boolean; readonly view?: RunView }): Promise<Run>;
  /** Every run, newest first; with input, output and references only where the view is FULL. */
  list(
    filter?: CallOptions & {
      readonly state?: RunState;
      readonly workflow?: string;
      readonly minCreateTime?: Timestamp;
      readonly maxCreateTime?: Timestamp;
      readonly showDeleted?: boolean;
      readonly view?: RunView;
    },
  ): AsyncIterable<Run>;
  /** Hides the run; the deletion hides the rest and is undefined where allowMissing let a missing run pass. */
  delete(
    runId: string,
    options?: HideRunOptions & { readonly allowMissing?: boolean },
  ): Promise<{ readonly run: Run | undefined; readonly deletion: Deletion | undefined }>;
  /** Brings the run back; the deletion is undefined where it was not hidden. */
  undelete(
    runId: string,
    options?: HideRunOptions,
  ): Promise<{ readonly run: Run; readonly deletion: Deletion | undefined }>;
  /** What a purge would take in every service, and what forbids it. */
  preview(runId: string, options?: CallOptions): Promise<PreviewPurgeRunResponse>;
  /** Removes the run for good from every service. */
  purge(runId: string, options: PurgeRunOptions): Promise<Deletion | undefined>;
  /** How many runs purgeAll would take now, how many of them it would skip and why, and the newest ten. */
  previewPurgeAll(filter: RunFilter, options?: BulkRunOptions): Promise<BulkDeletionPreview>;
  /** Purges, or hides, every run that matches, as one durable operation; see `lethe.bulkDeletions`. */
  purgeAll(filter: RunFilter, options: BulkRunOptions & BulkDeletionOptions): Promise<BulkDeletion>;
}

const UNDER_WAY: ReadonlySet<RunState> = new Set([RunState.RUNNING, RunState.COMPENSATING]);

/** Makes `lethe.runs`. */
export const makeRuns = (services: Services, deletions: Deletions, bulkDeletions: BulkDeletions): Runs => ({
  create: (run) =>
    itemOf('run', run, (request, call) => services.run.createRun({ requestId: newId(), ...request }, call)),
  start: (run) =>
    itemOf('run', run, (request, call) => services.run.startRun({ requestId: newId(), ...request }, call)),
  watch(runId, { signal, timeoutMs, ...options } = {}) {
    const call = sharedDeadline({ signal, timeoutMs });
    const steps = new Map<string, RunStep>();
    const changed = changesOf<Run>(({ etag }) => etag);
    const toItem = (seen: WatchRunResponse): RunSighting | undefined => {
      for (const step of seen.steps) steps.set(step.name, step);
      const run = seen.moreFollows ? undefined : changed(present('run', seen.run));
      return run && { run, steps: [...steps.values()].toSorted((one, other) => one.position - other.position) };
    };
    const open = () => services.run.watchRun({ runId, ...options }, call());
    return untilLast(open, ({ run }) => !UNDER_WAY.has(run.state), { toItem, signal });
  },
  steps: (runId, options = {}) =>
    listOf('steps', options, (request, call) => services.run.listRunSteps({ runId, ...request }, call)),
  cancel: (runId, order = {}) =>
    itemOf('run', order, (request, call) => services.run.cancelRun({ runId, ...request }, call)),
  retry: (runId, order = {}) =>
    itemOf('run', order, (request, call) => services.run.retryRun({ runId, ...request }, call)),
  recordStep: async (runId, { participants = [], ...step }) =>
    itemOf('step', step, (request, call) =>
      services.run.recordStep({ runId, ...request, participants: [...participants] }, call),
    ),
  finish: (runId, end) => itemOf('run', end, (request, call) => services.run.finishRun({ runId, ...request }, call)),
  fail: (runId, failure) =>
    itemOf('run', failure, (request, call) => services.run.failRun({ runId, ...request }, call)),
  get: (runId, options = {}) =>
    itemOf('run', options, (request, call) => services.run.getRun({ runId, ...request }, call)),
  list: (options = {}) => listOf('runs', options, (request, call) => services.run.listRuns(request, call)),
  async delete(runId, options = {}) {
    const { request, call } = splitCall(options);
    const { run, deletion } = await services.run.deleteRun({ ...requestIdOf(options), runId, ...request }, call);
    return { run, deletion };
  },
  async undelete(runId, options = {}) {
    const { request, call } = splitCall(options);
    const { run, deletion } = await services.run.undeleteRun({ ...requestIdOf(options), runId, ...request }, call);
    return { run: present('run', run), deletion };
  },
  async preview(runId, options = {}) {
    return services.run.previewPurgeRun({ runId }, toTransport(options));
  },
  async purge(runId, { wait = false, signal, timeoutMs, ...request }) {
    const call = sharedDeadline({ signal, timeoutMs });
    let { deletion } = await services.run.purgeRun({ ...requestIdOf(request), runId, ...request }, call());
    if (!wait || !deletion?.id) return deletion;
    for await (deletion of deletions.watch(deletion.id, call()));
    return deletion;
  },
  async previewPurgeAll(filter, { hide = false, force = false, ...options } = {}) {
    const request = { filter, mode: bulkModeOf(hide), force, validateOnly: true };
    return presentPreview(await services.run.purgeRuns(request, toTransport(options)));
  },
  purgeAll: (filter, { hide = false, force = false, ...options }) =>
    orderBulk(bulkDeletions, 'run', options, (order, call) =>
      services.run.purgeRuns({ filter, mode: bulkModeOf(hide), force, ...order }, call),
    ),
});

const bulkModeOf = (hide: boolean): DeletionMode => (hide ? DeletionMode.SOFT_DELETE : DeletionMode.PURGE);

/** A dry run stores nothing, so it takes no request_id either. */
const requestIdOf = ({ validateOnly = false }: HideRunOptions) => (validateOnly ? {} : { requestId: newId() });
