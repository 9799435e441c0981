import { setTimeout as delay } from 'node:timers/promises';
import type { Database } from '#libs/postgres/open-database.ts';
import type { RetryPolicy } from '#libs/saga/backoff.ts';
import { type BulkTargets, makeBulkDeletionRepository } from './bulk-deletion-repository.ts';
import { makeOrderBulkDeletion, type OnBulkOrdered, type OrderBulkDeletion } from './order-bulk-deletion.ts';
import type { OrderItem } from './ports.ts';
import { makeReadBulkDeletions, type ReadBulkDeletions } from './read-bulk-deletions.ts';
import { type BulkObserver, makeRunBulkDeletions, type RunBulkDeletions } from './run-bulk-deletions.ts';

/** What a service's bulk deletions are made from. */
export interface BulkDeletionOptions<Filter extends object> {
  readonly database: Database;
  readonly targets: BulkTargets<Filter>;
  readonly orderItem: OrderItem<Filter>;
  readonly workerId: string;
  readonly leaseMs: number;
  readonly maxUnderWay: number;
  readonly chunkSize: number;
  readonly retry: RetryPolicy;
  /** How long one that has ended is kept. */
  readonly receiptDays: number;
  readonly wake: () => void;
  readonly onOrdered: OnBulkOrdered;
  readonly observer: BulkObserver;
}

/** The bulk deletions of one service. */
export interface BulkDeletions<Filter> {
  readonly order: OrderBulkDeletion<Filter>;
  readonly read: ReadBulkDeletions<Filter>;
  /** For a few worker loops in each replica. */
  readonly run: RunBulkDeletions;
  /** Removes those that ended long ago; for a loop that runs now and then. Answers how many rows. */
  expire(): Promise<number>;
}

const TURN_MS = 2_000;
const POLL_MS = 50;

/** Composes a service's bulk deletions over Postgres. */
export function makeBulkDeletions<Filter extends object>(options: BulkDeletionOptions<Filter>): BulkDeletions<Filter> {
  const { database, targets, orderItem, wake, onOrdered, observer, receiptDays, ...settings } = options;
  const name = targets.targetType;
  const repository = makeBulkDeletionRepository(database, targets);
  const sleep = (ms: number, signal: AbortSignal) => delay(ms, undefined, { signal });
  return {
    order: makeOrderBulkDeletion(name, repository, wake, onOrdered),
    read: makeReadBulkDeletions(repository, sleep),
    run: makeRunBulkDeletions(
      repository,
      orderItem,
      { ...settings, name, turnMs: TURN_MS, pollMs: POLL_MS },
      sleep,
      observer,
    ),
    expire: () => repository.expire(receiptDays),
  };
}
