import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import type { Statement } from '#libs/postgres/statement.ts';
import type { RunScope } from './participant.ts';

type Run = Pick<RunScope, 'tenantId' | 'runId'>;

/** Holds a run until the transaction ends, so that nobody else makes anything of it or ends what was made. */
export type HoldRun = (trx: TenantTransaction, run: Run) => Promise<void>;

/** The lock of a run in a service that makes something of runs. */
export interface RunLock {
  /** For those who decide that nothing may be made any more: alone. */
  readonly hold: HoldRun;
  /** For those who make something of the run: many at once, but not beside one who holds it. */
  readonly share: HoldRun;
  /** As `share`, as the beginning of a batch. */
  toShare(run: Run): readonly Statement[];
}

/**
 * Makes the lock of a service that has a table `run_locks`. A run's row is there from the first time that the run is locked,
 * and what is to come has no row yet that could be locked for it.
 *
 * The release before this one holds a run by an advisory lock, whose key begins with `inLastRelease`. Its processes run
 * beside this one's while they are replaced and must be kept out too, so both locks are taken, always in this order. The
 * next release takes the row alone, as a service does that the last one did not have.
 */
export function makeRunLock(inLastRelease?: string): RunLock {
  const keyOf = ({ tenantId, runId }: Run) => (inLastRelease ? { key: `${inLastRelease}/${tenantId}/${runId}` } : {});
  const provide = (kind: Kind, tenant: string, run: string, key: string): string => {
    const held = inLastRelease ? `from ${ADVISORY[kind]}(hashtextextended(${key}, 0))` : '';
    return `insert into run_locks (tenant_id, run_id)
            select ${tenant}, cast(${run} as uuid) ${held} on conflict do nothing returning 1`;
  };
  const take =
    (kind: Kind): HoldRun =>
    async (trx, run) => {
      const { tenantId, runId } = run;
      await trx.raw(provide(kind, ':tenantId', ':runId', ':key'), { tenantId, runId, ...keyOf(run) });
      // A statement of its own: the one before may have waited for whoever has inserted the row.
      await trx.raw(lock(kind, ':tenantId', ':runId'), { tenantId, runId });
    };
  return {
    hold: take('update'),
    share: take('share'),
    toShare: (run) => [
      {
        name: 'provide-run-lock',
        text: provide('share', '$1', '$2', '$3'),
        values: [run.tenantId, run.runId, ...Object.values(keyOf(run))],
      },
      { name: 'share-run', text: lock('share', '$1', '$2'), values: [run.tenantId, run.runId] },
    ],
  };
}

type Kind = 'share' | 'update';

const ADVISORY = { share: 'pg_advisory_xact_lock_shared', update: 'pg_advisory_xact_lock' } as const;

const lock = (kind: Kind, tenant: string, run: string): string =>
  `select 1 from run_locks where tenant_id = ${tenant} and run_id = ${run} for ${kind}`;
