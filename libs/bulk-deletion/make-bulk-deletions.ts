import { setTimeout as delay } from 'node:timers/promises';
import { startWorkerLoop, startWorkerLoops, type WorkerLoop, type WorkerLoops } from '#libs/durable/worker-loop.ts';
import type { ServiceFoundation } from '#libs/service/run-service.ts';
import { type BulkTargets, makeBulkDeletionRepository } from './bulk-deletion-repository.ts';
import { makeBulkObserver, makeOnOrdered } from './observe-bulk-deletions.ts';
import { makeOrderBulkDeletion, type OrderBulkDeletion } from './order-bulk-deletion.ts';
import type { OrderItem } from './ports.ts';
import { makeReadBulkDeletions, type ReadBulkDeletions } from './read-bulk-deletions.ts';
import { makeRunBulkDeletions } from './run-bulk-deletions.ts';
import type { BulkDeletionSettings } from './settings.ts';

/** What a service's bulk deletions are made from. */
export interface BulkDeletionParts<Filter extends object> {
  readonly foundation: BulkFoundation;
  readonly settings: BulkDeletionSettings;
  readonly targets: BulkTargets<Filter>;
  readonly orderItem: OrderItem<Filter>;
}

/** Where bulk deletions are kept, and where they are told of. */
export type BulkFoundation = Pick<ServiceFoundation, 'database' | 'log' | 'metrics'>;

/** The bulk deletions of one service. */
export interface BulkDeletions<Filter> {
  readonly order: OrderBulkDeletion<Filter>;
  readonly read: ReadBulkDeletions<Filter>;
  /** Starts the loops that drive bulk deletions and forget those that ended long ago. */
  startWorkers(onError: (name: string, error: unknown) => void): readonly Pick<WorkerLoop, 'stop'>[];
}

const TURN_MS = 2_000;
const LOOK_MS = 50;
const EXPIRY_POLL_MS = 3_600_000;
const WORKERS = 2;

/** Composes a service's bulk deletions over Postgres; its metrics tell of them from now on. */
export function makeBulkDeletions<Filter extends object>({
  foundation: { database, log, metrics },
  settings,
  targets,
  orderItem,
}: BulkDeletionParts<Filter>): BulkDeletions<Filter> {
  const name = targets.targetType;
  const repository = makeBulkDeletionRepository(database, targets);
  const sleep = (ms: number, signal: AbortSignal) => delay(ms, undefined, { signal });
  let workers: WorkerLoops | undefined;
  metrics.observe('lethe_oldest_unfinished_bulk_deletion_seconds', repository.oldestUnfinishedSeconds);
  metrics.observe('lethe_bulk_deletion_items_left', repository.itemsLeft);
  return {
    order: makeOrderBulkDeletion(name, repository, () => workers?.wake(), makeOnOrdered(name, log)),
    read: makeReadBulkDeletions(repository, sleep),
    startWorkers(onError) {
      const run = makeRunBulkDeletions(
        repository,
        orderItem,
        {
          name,
          workerId: settings.workerId,
          leaseMs: settings.bulkLeaseMs,
          maxUnderWay: settings.bulkUnderWay,
          chunkSize: settings.bulkChunk,
          turnMs: TURN_MS,
          pollMs: LOOK_MS,
          retry: {
            maxAttempts: settings.deletionAttempts,
            baseMs: settings.deletionBackoffMs,
            maxMs: settings.deletionBackoffMaxMs,
          },
        },
        sleep,
        makeBulkObserver(log, metrics),
      );
      const { pollMs, receiptDays } = settings;
      workers = startWorkerLoops(WORKERS, { name: 'bulk-deletions', pollMs, work: run, onError });
      const expiry = startWorkerLoop({
        name: 'bulk-deletion-receipts',
        pollMs: EXPIRY_POLL_MS,
        work: () => repository.expire(receiptDays),
        onError,
      });
      return [workers, expiry];
    },
  };
}
