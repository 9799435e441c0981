import {
  type PlanWindow,
  PurgeItemState,
  PurgeState,
  PurgeSubjectState,
  PurgeTrigger,
  type RetentionPurge,
  type RetentionWindow,
  SubjectState,
  WindowKind,
  WindowSource,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { formatCount, toWords } from '../parts/format.ts';
import { StateBadge } from '../parts/state-badge.tsx';

interface Word {
  readonly label: string;
  readonly color: string;
  /** Something is going on. */
  readonly isActive?: boolean;
}

const UNKNOWN: Word = { label: 'Unknown', color: 'gray.6' };
const WAITING: Word = { label: 'Waiting', color: 'gray.6' };
const RUNNING: Word = { label: 'Running', color: 'blue', isActive: true };
const COMPLETE: Word = { label: 'Complete', color: 'green' };
const PARTIAL: Word = { label: 'Partial', color: 'orange' };
const HELD: Word = { label: 'Held', color: 'violet' };

const PURGES: Readonly<Record<number, Word>> = {
  [PurgeState.PENDING]: WAITING,
  [PurgeState.RUNNING]: RUNNING,
  [PurgeState.COMPLETE]: COMPLETE,
  [PurgeState.PARTIAL]: PARTIAL,
  [PurgeState.HELD]: HELD,
};

const ITEMS: Readonly<Record<number, Word>> = {
  [PurgeItemState.PENDING]: WAITING,
  [PurgeItemState.RUNNING]: RUNNING,
  [PurgeItemState.COMPLETE]: COMPLETE,
  [PurgeItemState.PARTIAL]: PARTIAL,
  [PurgeItemState.FAILED]: { label: 'Failed', color: 'red' },
  [PurgeItemState.HELD]: HELD,
  [PurgeItemState.SKIPPED]: { label: 'Left to another purge', color: 'gray.6' },
};

const PURGE_SUBJECTS: Readonly<Record<number, Word>> = {
  [PurgeSubjectState.PENDING]: WAITING,
  [PurgeSubjectState.COUNTING]: { label: 'Counting', color: 'blue', isActive: true },
  [PurgeSubjectState.RUNNING]: { label: 'Removing', color: 'blue', isActive: true },
  [PurgeSubjectState.COMPLETE]: COMPLETE,
  [PurgeSubjectState.PARTIAL]: PARTIAL,
  [PurgeSubjectState.HELD]: HELD,
  [PurgeSubjectState.OBSERVED]: { label: 'Counted only', color: 'cyan' },
  [PurgeSubjectState.KEPT]: { label: 'All kept', color: 'gray.6' },
};

const SUBJECTS: Readonly<Record<number, Word>> = {
  [SubjectState.ACTIVE]: { label: 'Purged', color: 'green' },
  [SubjectState.OBSERVED]: { label: 'Observed', color: 'cyan' },
  [SubjectState.CONFLICT]: { label: 'Two owners', color: 'red' },
  [SubjectState.OWNER_CHANGED]: { label: 'Owner changed', color: 'orange' },
  [SubjectState.OWNER_UNKNOWN]: { label: 'Owner unknown', color: 'red' },
  [SubjectState.UNLISTED]: { label: 'Not listed any more', color: 'red' },
  [SubjectState.RETIRED]: { label: 'Retired', color: 'gray.6' },
};

const TRIGGERS: Readonly<Record<number, string>> = {
  [PurgeTrigger.PURGE]: 'Purge',
  [PurgeTrigger.PURGE_NOW]: 'Purge now',
  [PurgeTrigger.SCHEDULE]: 'Schedule',
};

/** Where a purge stands; one of which some tenant is held says so too. */
export const PurgeBadge = ({ purge }: { readonly purge: RetentionPurge }) =>
  purge.stop?.isStopped && !hasEnded(purge) ? (
    <WordBadge word={{ label: 'Stopped', color: 'red' }} />
  ) : (
    <WordBadge word={purge.heldTenantCount > 0 && purge.state === PurgeState.PARTIAL ? HELD : PURGES[purge.state]} />
  );

/** Where one tenant of a purge stands. */
export const ItemBadge = ({ state }: { readonly state: PurgeItemState }) => <WordBadge word={ITEMS[state]} />;

/** Where one subject of one tenant stands in a purge. */
export const PurgeSubjectBadge = ({ state }: { readonly state: PurgeSubjectState }) => (
  <WordBadge word={PURGE_SUBJECTS[state]} />
);

/** Where a subject of the catalogue stands. */
export const SubjectBadge = ({ state }: { readonly state: SubjectState }) => <WordBadge word={SUBJECTS[state]} />;

const WordBadge = ({ word = UNKNOWN }: { readonly word: Word | undefined }) => <StateBadge {...word} />;

/** Who set a purge going. */
export const triggerLabel = (trigger: PurgeTrigger): string => TRIGGERS[trigger] ?? 'Unknown';

/** Whether no worker will touch the purge any more, approvals aside. */
export const hasEnded = ({ state }: Pick<RetentionPurge, 'state'>): boolean =>
  state === PurgeState.COMPLETE || state === PurgeState.PARTIAL || state === PurgeState.HELD;

/** A name such as `drift_checks`, for people: "Drift checks". */
export const subjectLabel = toWords;

/** A window in a few words: "30 days", "Everything". */
export function windowLabel(kind: WindowKind, days: number | undefined): string {
  if (kind === WindowKind.DAYS) return days === 1 ? '1 day' : `${formatCount(days ?? 0)} days`;
  return kind === WindowKind.NOT_APPLICABLE ? 'Not part of the plan' : 'Everything';
}

/** A plan's window for one subject in a few words, with its floor. */
export const planWindowLabel = (window: PlanWindow | undefined): string => {
  if (!window) return 'Everything';
  const floor = window.minToKeep > 0n ? `, at least the newest ${formatCount(window.minToKeep)}` : '';
  return windowLabel(window.kind, window.retentionDays) + floor;
};

/** Where a window comes from. */
export function sourceLabel({ source, planName }: RetentionWindow): string {
  const plan = planName ? `plan ${planName}` : 'no plan';
  switch (source) {
    case WindowSource.PLAN:
      return planName ? `Plan ${planName}` : 'The plan';
    case WindowSource.GRACE:
      return planName ? `Grace: ${plan} kept more before` : 'Grace: everything was kept before';
    case WindowSource.POLICY:
      return 'The tenant’s own policy';
    case WindowSource.INHERITED:
      return planName ? `Kept from ${plan}, as the plan in force does not have it` : 'Kept from the plan before';
    case WindowSource.NONE:
      return 'Nothing was ever set';
    default:
      return 'Unknown';
  }
}
