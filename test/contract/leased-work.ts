import type { ExecutionContext } from 'ava';
import { startWorkerLoops } from '#libs/durable/worker-loop.ts';
import { hasReason } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { TestDatabase } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';
import { withClockAhead } from '#test/support/with-clock-ahead.ts';

/** Declares a test, under its title. */
export type Declare = (title: string, body: (t: ExecutionContext<unknown>) => Promise<void>) => void;

/** One item of leased work. */
export interface Item {
  readonly tenantId: string;
  readonly id: string;
}

/** What the suite uses of a worker's hold on an item. */
export interface Claim {
  readonly token: number | bigint;
}

/** An item's row, read by SQL that shares nothing with the repository. */
export interface Row {
  /** From the database's now, negative when it is due, null when it never will be. While it is held: the lease's end. */
  readonly dueInMs: number | null;
  readonly owner: string | null;
  /** Attempts that failed, and workers that were lost. */
  readonly attempts: number;
  readonly lastError: string | null;
  readonly isParked: boolean;
}

/** How the service's own worker is driven. */
export interface WorkerOptions {
  readonly maxAttempts: number;
  /** What the item does to the outside: it may throw, or take long. */
  readonly effect: (tenantId: string) => Promise<void>;
  readonly leaseMs?: number;
}

/** How items that cannot succeed are put where a person sees them. */
export interface Parking<C extends Claim = Claim> {
  /** Gives the item up after the last attempt. */
  park(claim: C, error: string): Promise<void>;
  /** Sets the work of a parked item going again, and answers the item that does it now. */
  redrive(item: Item): Promise<Item>;
  /** How many workers in a row may be lost before the next one parks the item, where `maxAttempts` are allowed. */
  lossesBeforeParked(maxAttempts: number): number;
}

/** A table of leased work with the repository and the worker that its service has, on a database of its own. */
export interface LeasedTable<C extends Claim = Claim> {
  readonly created: TestDatabase;
  /** Adds an item that is due at once. */
  add(tenantId: string): Promise<Item>;
  findDue(limit: number): Promise<readonly Item[]>;
  claim(item: Item, owner: string, leaseMs: number): Promise<C | undefined>;
  /** Extends the lease. */
  renew(claim: C, leaseMs: number): Promise<void>;
  /** Gives the item up unharmed, due at once. */
  release(claim: C): Promise<void>;
  /** Gives it up after an attempt that failed, due again after `retryMs`. */
  fail(claim: C, error: string, retryMs: number): Promise<void>;
  /** Undefined: no item is ever given up for good. */
  readonly parking: Parking<C> | undefined;
  /** A pass of the service's worker: it takes up one item that is due, and answers how many it took up. */
  work(options: WorkerOptions, signal: AbortSignal, callNext?: () => void): Promise<number>;
  read(item: Item): Promise<Row>;
  /** Answers what has been due longest, whosever it is, by SQL. */
  findLongestDue(limit: number): Promise<readonly Item[]>;
  /** Makes the item due at this offset from now, by SQL; an owner stays. */
  setDue(item: Item, ms: number): Promise<void>;
  /** Writes columns of the row by SQL, for planted defects. */
  write(item: Item, columns: Partial<Pick<Row, 'owner' | 'attempts' | 'lastError'>>): Promise<void>;
  /** The claim as its item's present holder has it: what a repository that looks at no token would take it for. */
  asCurrent(claim: C, item: Item): Promise<C>;
  close(): Promise<void>;
}

const LEASE_MS = 60_000;
const ERROR = 'BROKEN: it does not work.';
const never = new AbortController().signal;

/** The tests that a planted defect fails, by the beginning of their title. */
export const FAULTS = {
  'accepts a stale token': 'a stale token is refused',
  'forgets the attempt of a lost worker': 'a lost worker is an attempt',
  'parks too early': 'an item is parked after its last attempt',
  'serves whoever has waited longest': 'tenants take turns',
  'leases by the clock of the process': 'leases and pauses are measured by the database',
  'renews a lease that is lost': 'a stale token is refused',
  'lets anybody release': 'a stale token is refused',
  'parks without the reason': 'a parked item keeps its reason',
  'redrives without new attempts': 'a redriven item has all its attempts',
  'gives a leased item to a second worker': 'an item has one worker',
} as const;

/** One of FAULTS. */
export type Fault = keyof typeof FAULTS;

/** The defects that only a table with parking can have, which counts lost workers in order to park. */
export const FAULTS_OF_PARKING: ReadonlySet<Fault> = new Set([
  'forgets the attempt of a lost worker',
  'parks too early',
  'parks without the reason',
  'redrives without new attempts',
]);

/** What a table of leased work must do, whichever service's it is; `parks` tells whether it has parking. */
export function leasedWorkContract(
  declare: Declare,
  name: string,
  open: () => Promise<LeasedTable>,
  parks: boolean,
): void {
  const test = (title: string, body: (t: ExecutionContext<unknown>, table: LeasedTable) => Promise<void>): void =>
    declare(`${name}: ${title}`, async (t) => {
      const table = await open();
      try {
        await body(t, table);
      } finally {
        await table.close();
      }
    });

  const parkingTest = (
    title: string,
    body: (t: ExecutionContext<unknown>, table: LeasedTable, parking: Parking) => Promise<void>,
  ): void => {
    if (parks) test(title, (t, table) => body(t, table, parkingOf(table)));
  };

  test('an item has one worker: of many that claim it at once one gets it, and nobody else while the lease lasts', async (t, table) => {
    const item = await table.add('acme');
    const claims = await Promise.all(Array.from({ length: 8 }, (_, n) => table.claim(item, `worker-${n}`, LEASE_MS)));
    t.is(claims.filter((claim) => claim !== undefined).length, 1);
    t.is(await table.claim(item, 'late', LEASE_MS), undefined);
    t.deepEqual(await table.findDue(10), []);
    t.is((await table.read(item)).owner, `worker-${claims.findIndex((claim) => claim !== undefined)}`);
  });

  test('a stale token is refused, and what it would write is not written', async (t, table) => {
    for (const write of [
      (claim: Claim) => table.renew(claim, 2 * LEASE_MS),
      (claim: Claim) => table.release(claim),
      (claim: Claim) => table.fail(claim, ERROR, 1),
      ...(table.parking ? [(claim: Claim) => parkingOf(table).park(claim, ERROR)] : []),
    ]) {
      const item = await table.add(newId());
      const stale = await claimed(table, item, 'slow');
      await table.setDue(item, -1);
      await claimed(table, item, 'quick');
      const before = await table.read(item);
      t.true(await isRefused(write(stale)));
      const { dueInMs, ...after } = await table.read(item);
      t.deepEqual({ ...after, dueInMs: 0 }, { ...before, dueInMs: 0 });
      t.true((dueInMs ?? 0) > 0 && (dueInMs ?? 0) <= LEASE_MS, 'the lease is the other worker’s');
    }
    const item = await table.add(newId());
    const claim = await claimed(table, item, 'slow');
    await table.release(claim);
    t.true(await isRefused(table.renew(claim, LEASE_MS)), 'one that was given up is stale as well');
  });

  parkingTest('a lost worker is an attempt, one that gives way is none', async (t, table) => {
    const [lost, released] = [await table.add('acme'), await table.add('umbrella')];
    await claimed(table, lost, 'lost');
    await table.setDue(lost, -1);
    await claimed(table, lost, 'next');
    t.is((await table.read(lost)).attempts, 1);
    await table.release(await claimed(table, released, 'polite'));
    await claimed(table, released, 'next');
    t.is((await table.read(released)).attempts, 0);
  });

  test('an attempt that fails is counted with its error, and the next is due after the pause', async (t, table) => {
    const item = await table.add('acme');
    await table.fail(await claimed(table, item, 'w'), ERROR, LEASE_MS);
    const { dueInMs, ...row } = await table.read(item);
    t.deepEqual(row, { owner: null, attempts: 1, lastError: ERROR, isParked: false });
    t.true((dueInMs ?? 0) > 0 && (dueInMs ?? 0) <= LEASE_MS);
    t.deepEqual(await table.findDue(10), []);
    t.is(await table.claim(item, 'early', LEASE_MS), undefined);
    await table.setDue(item, -1);
    await claimed(table, item, 'v');
    t.is((await table.read(item)).attempts, 1, 'one that is claimed anew has failed no more often');
  });

  parkingTest('an item is parked after its last attempt, and not before', async (t, table) => {
    const item = await table.add('acme');
    const options = { maxAttempts: 3, effect: () => Promise.reject(new Error('broken')) };
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      t.false((await table.read(item)).isParked, `after ${attempt - 1}`);
      await table.setDue(item, -1);
      t.is(await table.work(options, never), 1);
    }
    t.like(await table.read(item), { isParked: true, owner: null, dueInMs: null });
    t.is(await table.work(options, never), 0);
  });

  parkingTest('an item whose workers are all lost is parked without another try', async (t, table, parking) => {
    const losses = parking.lossesBeforeParked(3);
    const item = await table.add('acme');
    for (let loss = 1; loss <= losses; loss += 1) {
      await claimed(table, item, 'lost');
      await table.setDue(item, -1);
    }
    const tried: string[] = [];
    t.is(await table.work({ maxAttempts: 3, effect: async (tenantId) => void tried.push(tenantId) }, never), 1);
    t.deepEqual(tried, []);
    const { isParked, lastError } = await table.read(item);
    t.true(isParked && lastError !== null);
  });

  parkingTest('a parked item keeps its reason, and nobody finds or claims it', async (t, table, parking) => {
    const item = await table.add('acme');
    await parking.park(await claimed(table, item, 'w'), ERROR);
    t.like(await table.read(item), { isParked: true, owner: null, dueInMs: null, lastError: ERROR });
    t.deepEqual(await table.findDue(10), []);
    t.is(await table.claim(item, 'v', LEASE_MS), undefined);
  });

  parkingTest('a redriven item has all its attempts before it, and is done', async (t, table, parking) => {
    const item = await table.add('acme');
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      await table.fail(await claimed(table, item, 'w'), ERROR, 1);
      await table.setDue(item, -1);
    }
    await parking.park(await claimed(table, item, 'w'), ERROR);
    const again = await parking.redrive(item);
    t.like(await table.read(again), { isParked: false, attempts: 0, owner: null });
    t.deepEqual(await table.findDue(10), [again]);
    const tried: string[] = [];
    t.is(await table.work({ maxAttempts: 1, effect: async (tenantId) => void tried.push(tenantId) }, never), 1);
    t.deepEqual(tried, ['acme']);
    t.like(await table.read(again), { isParked: false, dueInMs: null, owner: null });
  });

  test('leases and pauses are measured by the database’s clock, however wrong the process’s is', async (t, table) => {
    for (const ms of [400, -400].map((days) => days * 86_400_000)) {
      await withClockAhead(ms, async () => {
        const item = await table.add(newId());
        t.deepEqual(await table.findDue(10), [item]);
        const claim = await claimed(table, item, 'w');
        const lease = (await table.read(item)).dueInMs ?? 0;
        t.true(lease > 0 && lease <= LEASE_MS, `leased for ${lease}`);
        await table.fail(claim, ERROR, LEASE_MS);
        const pause = (await table.read(item)).dueInMs ?? 0;
        t.true(pause > 0 && pause <= LEASE_MS, `paused for ${pause}`);
        t.deepEqual(await table.findDue(10), []);
      });
    }
  });

  test('tenants take turns: whose items have fewer workers comes first, however many wait for another', async (t, table) => {
    for (let count = 0; count < 12; count += 1) await table.setDue(await table.add('large'), count - 60_000);
    const small = await table.add('small');
    await table.setDue(small, -1);
    const firstTwo = (await table.findDue(2)).map(({ tenantId }) => tenantId);
    t.deepEqual(firstTwo, ['large', 'small']);
    const [first] = await table.findDue(1);
    if (first) await claimed(table, first, 'w');
    t.deepEqual(await table.findDue(1), [small], 'large has a worker');
  });

  test('nobody waits for another tenant’s long items: of two workers they have one', async (t, table) => {
    for (let count = 0; count < 3; count += 1) await table.setDue(await table.add('large'), count - 60_000);
    const small = await table.add('small');
    await table.setDue(small, -1);
    const { promise: gate, resolve: finish } = Promise.withResolvers<void>();
    const begun: string[] = [];
    const options: WorkerOptions = {
      maxAttempts: 3,
      async effect(tenantId) {
        begun.push(tenantId);
        if (tenantId === 'large') await gate;
      },
    };
    const errors: unknown[] = [];
    const workers = startWorkerLoops(2, {
      name: 'leased-work',
      pollMs: 20,
      work: (signal, callNext) => table.work(options, signal, callNext),
      onError: (_, error) => errors.push(error),
    });
    try {
      await until('the small one is done', async () => (await table.read(small)).dueInMs === null, 20_000);
      t.true(begun.includes('large'));
    } finally {
      finish();
      await workers.stop();
    }
    t.deepEqual(errors, []);
  });

  test('an item is its tenant’s: under another tenant’s name it is not there', async (t, table) => {
    const item = await table.add('acme');
    const stranger = { ...item, tenantId: 'umbrella' };
    t.is(await table.claim(stranger, 'w', LEASE_MS), undefined);
    const before = await table.read(item);
    await table.parking?.redrive(stranger).catch(() => undefined);
    t.deepEqual({ ...(await table.read(item)), dueInMs: 0 }, { ...before, dueInMs: 0 });
  });
}

/** The table with one defect planted: what it does beside its repository, or in its place, is SQL of the test's. */
export function plant(fault: Fault, table: LeasedTable): LeasedTable {
  const items = new WeakMap<Claim, Item>();
  const itemOf = (claim: Claim): Item => {
    const item = items.get(claim);
    if (!item) throw new Error('the claim is not of this table');
    return item;
  };
  /** Claims, and remembers of which item. */
  const remembering: LeasedTable['claim'] = async (item, owner, leaseMs) => {
    const claim = await table.claim(item, owner, leaseMs);
    if (claim) items.set(claim, item);
    return claim;
  };
  const current = (claim: Claim): Promise<Claim> => table.asCurrent(claim, itemOf(claim));
  switch (fault) {
    case 'accepts a stale token':
      return {
        ...table,
        claim: remembering,
        renew: async (claim, leaseMs) => table.renew(await current(claim), leaseMs),
        fail: async (claim, error, retryMs) => table.fail(await current(claim), error, retryMs),
        parking: table.parking && {
          ...table.parking,
          park: async (claim, error) => parkingOf(table).park(await current(claim), error),
        },
      };
    case 'forgets the attempt of a lost worker':
      return {
        ...table,
        async claim(item, owner, leaseMs) {
          const { owner: lost } = await table.read(item);
          const claim = await table.claim(item, owner, leaseMs);
          if (claim && lost !== null) await table.write(item, { attempts: 0 });
          return claim;
        },
      };
    case 'parks too early':
      return {
        ...table,
        work: (options, signal, callNext) =>
          table.work({ ...options, maxAttempts: options.maxAttempts - 1 }, signal, callNext),
      };
    case 'serves whoever has waited longest':
      return {
        ...table,
        findDue: table.findLongestDue,
      };
    case 'leases by the clock of the process':
      return {
        ...table,
        async claim(item, owner, leaseMs) {
          const claim = await table.claim(item, owner, leaseMs);
          const [clock] = await table.created.query<{ ms: number }>(
            'select extract(epoch from clock_timestamp())::float8 * 1000 as ms',
          );
          if (claim) await table.setDue(item, Date.now() + leaseMs - (clock?.ms ?? 0));
          return claim;
        },
      };
    case 'renews a lease that is lost':
      return {
        ...table,
        claim: remembering,
        renew: (claim, leaseMs) => table.setDue(itemOf(claim), leaseMs),
      };
    case 'lets anybody release':
      return {
        ...table,
        claim: remembering,
        async release(claim) {
          await table.write(itemOf(claim), { owner: null });
          await table.setDue(itemOf(claim), 0);
        },
      };
    case 'parks without the reason':
      return {
        ...table,
        claim: remembering,
        parking: {
          ...parkingOf(table),
          async park(claim, error) {
            await parkingOf(table).park(claim, error);
            await table.write(itemOf(claim), { lastError: null });
          },
        },
      };
    case 'redrives without new attempts':
      return {
        ...table,
        parking: {
          ...parkingOf(table),
          async redrive(item) {
            const again = await parkingOf(table).redrive(item);
            await table.write(again, { attempts: 2 });
            return again;
          },
        },
      };
    case 'gives a leased item to a second worker':
      return {
        ...table,
        async claim(item, owner, leaseMs) {
          if ((await table.read(item)).owner !== null) await table.setDue(item, -1);
          return table.claim(item, owner, leaseMs);
        },
      };
  }
}

function parkingOf({ parking }: LeasedTable): Parking {
  if (!parking) throw new Error('the table parks nothing');
  return parking;
}

async function claimed<C extends Claim>(table: LeasedTable<C>, item: Item, owner: string): Promise<C> {
  const claim = await table.claim(item, owner, LEASE_MS);
  if (!claim) throw new Error('the item could not be claimed');
  return claim;
}

async function isRefused(write: Promise<void>): Promise<boolean> {
  try {
    await write;
    return false;
  } catch (error) {
    if (!hasReason(error, 'LEASE_LOST')) throw error;
    return true;
  }
}
