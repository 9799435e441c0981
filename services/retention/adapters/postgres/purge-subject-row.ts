import type { ResourceCount } from '../../domain/counts.ts';
import type {
  OperationRule,
  Pause,
  PurgeSubject,
  PurgeSubjectState,
  Tally,
  Wait,
  Walk,
} from '../../domain/purge-subject.ts';
import type { ResolvedWindow, Window, WindowSource } from '../../domain/windows.ts';

/** In jsonb instants are text and what is absent is not there. */
type Stored<T> = { readonly [K in keyof T]: T[K] extends Temporal.Instant ? string : T[K] };

type StoredTally = Stored<Tally>;
type StoredWalk = Omit<Walk, 'cutoff' | 'cursor'> & { readonly cutoff?: string };
type StoredRule = Omit<OperationRule, 'cutoff'> & { readonly cutoff?: string };

/** A row of retention_purge_subjects. */
export interface SubjectRow {
  readonly tenant_id: string;
  readonly purge_id: string;
  readonly subject: string;
  readonly owner: string | null;
  readonly state: PurgeSubjectState;
  readonly validate_only: boolean;
  readonly kind: Window['kind'];
  readonly days: number | null;
  readonly source: WindowSource;
  readonly plan: string | null;
  readonly plan_version: number | null;
  readonly window_version: number | null;
  readonly change_at: Temporal.Instant | null;
  readonly next_kind: Window['kind'] | null;
  readonly next_days: number | null;
  readonly min_to_keep: number | null;
  readonly stale_after_days: number | null;
  readonly last_days: number | null;
  readonly walk: StoredWalk | null;
  readonly cursor: string | null;
  readonly tallies: { readonly expired?: StoredTally; readonly usual?: StoredTally };
  readonly cutoff: Temporal.Instant | null;
  readonly expired: number | null;
  readonly seen: number | null;
  readonly held_at: Temporal.Instant | null;
  readonly hold_expired: number | null;
  readonly hold_total: number | null;
  readonly hold_max_share: number | null;
  readonly hold_max_count: number | null;
  readonly approved_at: Temporal.Instant | null;
  readonly approved_by: string | null;
  readonly approve_reason: string | null;
  readonly approved_rows: number | null;
  readonly approved_cutoff: Temporal.Instant | null;
  readonly approved_days: number | null;
  readonly operation_id: string | null;
  readonly operation: StoredRule | null;
  readonly pause: Stored<Pause> | null;
  readonly is_ended: boolean;
  readonly counts: readonly ResourceCount[];
  readonly ended_counts: readonly ResourceCount[];
  readonly waits: readonly Wait[];
  readonly ended_waits: readonly Wait[];
  readonly error: string | null;
}

const orUndefined = <T>(value: T | null): T | undefined => value ?? undefined;

const toWindow = (kind: Window['kind'], days: number | null): Window =>
  kind === 'DAYS' && days !== null ? { kind, days } : { kind: 'KEEP_ALL' };

const toTally = (stored: StoredTally): Tally => ({
  ...stored,
  staleAfterDays: stored.staleAfterDays,
  cutoff: Temporal.Instant.from(stored.cutoff),
});

/** A stored subject as the domain has it. */
export function toSubject(row: SubjectRow): PurgeSubject {
  const resolved: ResolvedWindow = {
    subject: row.subject,
    window: toWindow(row.kind, row.days),
    source: row.source,
    from: row.plan === null ? undefined : { plan: row.plan, version: row.plan_version ?? 0 },
    windowVersion: orUndefined(row.window_version),
    change:
      row.change_at && row.next_kind ? { at: row.change_at, to: toWindow(row.next_kind, row.next_days) } : undefined,
    ...(row.min_to_keep === null ? {} : { minToKeep: row.min_to_keep }),
    ...(row.stale_after_days === null ? {} : { staleAfterDays: row.stale_after_days }),
  };
  const { walk, operation, tallies } = row;
  return {
    subject: row.subject,
    owner: orUndefined(row.owner),
    state: row.state,
    window: resolved,
    lastDays: orUndefined(row.last_days),
    walk: walk
      ? { ...walk, cutoff: walk.cutoff ? Temporal.Instant.from(walk.cutoff) : undefined, cursor: row.cursor ?? '' }
      : undefined,
    expired: tallies.expired && toTally(tallies.expired),
    usual: tallies.usual && toTally(tallies.usual),
    hold: row.held_at
      ? {
          expired: orUndefined(row.hold_expired),
          total: orUndefined(row.hold_total),
          maxShare: orUndefined(row.hold_max_share),
          maxCount: orUndefined(row.hold_max_count),
          heldAt: row.held_at,
          approval: row.approved_at
            ? {
                at: row.approved_at,
                actor: row.approved_by ?? '',
                reason: row.approve_reason ?? '',
                rows: row.approved_rows ?? 0,
                days: row.approved_days ?? 0,
                cutoff: row.approved_cutoff ?? row.approved_at,
              }
            : undefined,
        }
      : undefined,
    operationId: orUndefined(row.operation_id),
    operation: operation
      ? {
          days: operation.days,
          cutoff: operation.cutoff ? Temporal.Instant.from(operation.cutoff) : undefined,
          minToKeep: operation.minToKeep,
          staleAfterDays: operation.staleAfterDays,
          maxRows: operation.maxRows,
        }
      : undefined,
    pause: row.pause
      ? { since: Temporal.Instant.from(row.pause.since), until: Temporal.Instant.from(row.pause.until) }
      : undefined,
    isEnded: row.is_ended,
    cutoff: orUndefined(row.cutoff),
    counts: row.counts,
    endedCounts: row.ended_counts,
    waits: row.waits,
    endedWaits: row.ended_waits,
    error: orUndefined(row.error),
  };
}

/** A subject as jsonb_to_recordset reads it into a row; instants become text with all their digits. */
export function toSubjectColumns(subject: PurgeSubject): Readonly<Record<string, unknown>> {
  const { window, hold, walk } = subject;
  const { change } = window;
  const approval = hold?.approval;
  return {
    subject: subject.subject,
    owner: subject.owner,
    state: subject.state,
    kind: window.window.kind,
    days: window.window.kind === 'DAYS' ? window.window.days : undefined,
    source: window.source,
    plan: window.from?.plan,
    plan_version: window.from?.version,
    window_version: window.windowVersion,
    change_at: change?.at,
    next_kind: change?.to.kind,
    next_days: change?.to.kind === 'DAYS' ? change.to.days : undefined,
    min_to_keep: window.minToKeep,
    stale_after_days: window.staleAfterDays,
    last_days: subject.lastDays,
    walk: walk && { ...walk, cursor: undefined },
    cursor: walk?.cursor,
    tallies: { expired: subject.expired, usual: subject.usual },
    cutoff: subject.cutoff,
    expired: subject.expired?.expired,
    seen: subject.usual?.seen ?? subject.expired?.seen,
    held_at: hold?.heldAt,
    hold_expired: hold?.expired,
    hold_total: hold?.total,
    hold_max_share: hold?.maxShare,
    hold_max_count: hold?.maxCount,
    approved_at: approval?.at,
    approved_by: approval?.actor,
    approve_reason: approval?.reason,
    approved_rows: approval?.rows,
    approved_cutoff: approval?.cutoff,
    approved_days: approval?.days,
    operation_id: subject.operationId,
    operation: subject.operation,
    pause: subject.pause,
    is_ended: subject.isEnded,
    counts: subject.counts,
    ended_counts: subject.endedCounts,
    waits: subject.waits,
    ended_waits: subject.endedWaits,
    error: subject.error,
  };
}
