import type { JsonObject, MessageInitShape } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { BulkDeletion, BulkDeletionPreview } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { type Deletion, DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Run, RunState, type RunStep } from '#gen/lethe/run/v1/run_pb.ts';
import type { PreviewPurgeRunResponse, RunFilterSchema } from '#gen/lethe/run/v1/run_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type BulkDeletionOptions, type BulkDeletions, orderBulk, presentPreview } from './bulk-deletions.ts';
import type { Deletions } from './deletions.ts';
import type { Services } from './services.ts';
import { everyItem, present, untilLast } from './streams.ts';

/** What a run is to be. */
export interface NewRun {
  readonly workflow: string;
  readonly displayName?: string;
  readonly input?: JsonObject;
  /** By default one of its own, so that a call that is sent again opens one run. */
  readonly requestId?: string;
}

/** How a run ended. */
export interface RunEnd {
  readonly state: RunState;
  /** Why it failed; required for FAILED. */
  readonly error?: string;
  readonly output?: JsonObject;
  readonly etag?: string;
}

/** How a run is to be hidden or brought back. */
export interface HideRunOptions {
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
  /** Resolve when the purge is COMPLETE, STUCK or CANCELLED, and not when it is committed. */
  readonly wait?: boolean;
}

/** Which runs: conditions that are set must all match, and at least one must be. */
export type RunFilter = MessageInitShape<typeof RunFilterSchema>;

/** What to do to every run that matches. */
export interface BulkRunOptions {
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
export interface RunOrder {
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
    options?: { readonly showDeleted?: boolean; readonly signal?: AbortSignal },
  ): AsyncIterable<RunSighting>;
  /** Every step that has begun, in order. */
  steps(runId: string, options?: { readonly showDeleted?: boolean }): AsyncIterable<RunStep>;
  /** Stops a running run and compensates it; resolves when that is committed. */
  cancel(runId: string, order?: RunOrder): Promise<Run>;
  /** Gives a run whose compensation is parked its attempts anew; resolves when that is committed. */
  retry(runId: string, order?: RunOrder): Promise<Run>;
  finish(runId: string, end: RunEnd): Promise<Run>;
  get(runId: string, options?: { readonly showDeleted?: boolean }): Promise<Run>;
  /** Every run, newest first. */
  list(filter?: {
    readonly state?: RunState;
    readonly workflow?: string;
    readonly minCreateTime?: Timestamp;
    readonly maxCreateTime?: Timestamp;
    readonly showDeleted?: boolean;
  }): AsyncIterable<Run>;
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
  preview(runId: string): Promise<PreviewPurgeRunResponse>;
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
  async create(run) {
    return present('run', (await services.run.createRun({ requestId: newId(), ...run })).run);
  },
  async start(run) {
    return present('run', (await services.run.startRun({ requestId: newId(), ...run })).run);
  },
  watch(runId, { signal, ...options } = {}) {
    const steps = new Map<string, RunStep>();
    let shown: string | undefined;
    const open = async function* () {
      for await (const seen of services.run.watchRun({ runId, ...options }, signal ? { signal } : {})) {
        const run = present('run', seen.run);
        for (const step of seen.steps) steps.set(step.name, step);
        if (run.etag === shown) continue;
        shown = run.etag;
        yield { run, steps: [...steps.values()].toSorted((one, other) => one.position - other.position) };
      }
    };
    return untilLast(open, ({ run }) => !UNDER_WAY.has(run.state));
  },
  steps: (runId, options = {}) =>
    everyItem(async (page) => {
      const { steps, nextPageToken } = await services.run.listRunSteps({ runId, ...options, ...page });
      return { items: steps, nextPageToken };
    }),
  async cancel(runId, order = {}) {
    return present('run', (await services.run.cancelRun({ runId, ...order })).run);
  },
  async retry(runId, order = {}) {
    return present('run', (await services.run.retryRun({ runId, ...order })).run);
  },
  async finish(runId, end) {
    return present('run', (await services.run.finishRun({ runId, ...end })).run);
  },
  async get(runId, options = {}) {
    return present('run', (await services.run.getRun({ runId, ...options })).run);
  },
  list: (filter = {}) =>
    everyItem(async (page) => {
      const { runs, nextPageToken } = await services.run.listRuns({ ...filter, ...page });
      return { items: runs, nextPageToken };
    }),
  async delete(runId, options = {}) {
    const { run, deletion } = await services.run.deleteRun({ ...requestIdOf(options), runId, ...options });
    return { run, deletion };
  },
  async undelete(runId, options = {}) {
    const { run, deletion } = await services.run.undeleteRun({ ...requestIdOf(options), runId, ...options });
    return { run: present('run', run), deletion };
  },
  async preview(runId) {
    return services.run.previewPurgeRun({ runId });
  },
  async purge(runId, { wait = false, ...options }) {
    let { deletion } = await services.run.purgeRun({ ...requestIdOf(options), runId, ...options });
    if (!wait || !deletion?.id) return deletion;
    for await (deletion of deletions.watch(deletion.id));
    return deletion;
  },
  async previewPurgeAll(filter, { hide = false, force = false } = {}) {
    return presentPreview(await services.run.purgeRuns({ filter, mode: bulkModeOf(hide), force, validateOnly: true }));
  },
  purgeAll: (filter, { hide = false, force = false, ...options }) =>
    orderBulk(bulkDeletions, 'run', options, (order) =>
      services.run.purgeRuns({ filter, mode: bulkModeOf(hide), force, ...order }),
    ),
});

const bulkModeOf = (hide: boolean): DeletionMode => (hide ? DeletionMode.SOFT_DELETE : DeletionMode.PURGE);

/** A rehearsal stores nothing, so it takes no request_id either. */
const requestIdOf = ({ validateOnly = false }: HideRunOptions) => (validateOnly ? {} : { requestId: newId() });
