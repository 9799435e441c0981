import type { MantineColor } from '@mantine/core';
import { BulkDeletionItemState, BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { type Deletion, DeletionMode, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { entryOf } from '../parts/enum-names.ts';
import { StateBadge } from '../parts/state-badge.tsx';

const STATES: Readonly<Record<DeletionState, readonly [label: string, color: MantineColor]>> = {
  [DeletionState.UNSPECIFIED]: ['Not begun', 'gray'],
  [DeletionState.PENDING]: ['Waiting', 'blue'],
  [DeletionState.CASCADING]: ['Removing', 'blue'],
  [DeletionState.VERIFYING]: ['Reading back', 'blue'],
  [DeletionState.COMPLETE]: ['Complete', 'green'],
  [DeletionState.STUCK]: ['Stuck', 'red'],
  [DeletionState.CANCELLED]: ['Cancelled', 'gray'],
};

const MODES: Readonly<Record<DeletionMode, string>> = {
  [DeletionMode.UNSPECIFIED]: 'Deletion',
  [DeletionMode.SOFT_DELETE]: 'Soft delete',
  [DeletionMode.UNDELETE]: 'Undelete',
  [DeletionMode.PURGE]: 'Purge',
  [DeletionMode.COMPENSATION]: 'Compensation',
};

const BULK: Readonly<Record<BulkDeletionState, readonly [label: string, color: MantineColor]>> = {
  [BulkDeletionState.UNSPECIFIED]: ['Unknown', 'gray'],
  [BulkDeletionState.SELECTING]: ['Selecting', 'blue'],
  [BulkDeletionState.RUNNING]: ['Running', 'blue'],
  [BulkDeletionState.CANCELLING]: ['Aborting', 'orange'],
  [BulkDeletionState.COMPLETE]: ['Complete', 'green'],
  [BulkDeletionState.STUCK]: ['Stuck', 'red'],
  [BulkDeletionState.CANCELLED]: ['Aborted', 'gray'],
};

const ITEMS: Readonly<Record<BulkDeletionItemState, readonly [label: string, color: MantineColor]>> = {
  [BulkDeletionItemState.UNSPECIFIED]: ['Unknown', 'gray'],
  [BulkDeletionItemState.PENDING]: ['Waiting', 'gray'],
  [BulkDeletionItemState.RUNNING]: ['Under way', 'blue'],
  [BulkDeletionItemState.COMPLETE]: ['Complete', 'green'],
  [BulkDeletionItemState.SKIPPED]: ['Skipped', 'yellow'],
  [BulkDeletionItemState.STUCK]: ['Stuck', 'red'],
  [BulkDeletionItemState.CANCELLED]: ['Not begun', 'gray'],
};

/** States of a deletion that has not ended, the ones that need a person first. */
export const UNFINISHED = [
  DeletionState.STUCK,
  DeletionState.CASCADING,
  DeletionState.VERIFYING,
  DeletionState.PENDING,
] as const;

const ENDED: ReadonlySet<DeletionState> = new Set([DeletionState.COMPLETE, DeletionState.CANCELLED]);
const MOVING: ReadonlySet<DeletionState> = new Set([
  DeletionState.PENDING,
  DeletionState.CASCADING,
  DeletionState.VERIFYING,
]);
const BULK_MOVING: ReadonlySet<BulkDeletionState> = new Set([
  BulkDeletionState.SELECTING,
  BulkDeletionState.RUNNING,
  BulkDeletionState.CANCELLING,
]);

/** Whether something still happens to a deletion by itself. */
export const isMoving = ({ state }: Pick<Deletion, 'state'>): boolean => MOVING.has(state);

/** Whether a deletion is over for good. */
export const hasEnded = ({ state }: Pick<Deletion, 'state'>): boolean => ENDED.has(state);

/** Whether something still happens to a bulk deletion by itself. */
export const isBulkMoving = ({ state }: { readonly state: BulkDeletionState }): boolean => BULK_MOVING.has(state);

/** What a deletion does to its target: `Purge`. */
export const modeLabel = (mode: DeletionMode): string => entryOf(MODES, mode);

/** `Purge of a run`. */
export const deletionTitle = ({ mode, targetType }: Pick<Deletion, 'mode' | 'targetType'>): string =>
  `${targetType === 'job' && mode === DeletionMode.PURGE ? 'Deletion' : entryOf(MODES, mode)} of a ${targetType}`;

/** Where a deletion stands. */
export function DeletionBadge({ state }: { readonly state: DeletionState }) {
  const [label, color] = entryOf(STATES, state);
  return <StateBadge label={label} color={color} isActive={MOVING.has(state)} />;
}

/** Where a bulk deletion stands. */
export function BulkBadge({ state }: { readonly state: BulkDeletionState }) {
  const [label, color] = entryOf(BULK, state);
  return <StateBadge label={label} color={color} isActive={BULK_MOVING.has(state)} />;
}

/** Where an item of a bulk deletion stands. */
export function ItemBadge({ state }: { readonly state: BulkDeletionItemState }) {
  const [label, color] = entryOf(ITEMS, state);
  return <StateBadge label={label} color={color} isActive={state === BulkDeletionItemState.RUNNING} />;
}

/** The states of items that a list can be narrowed to, with their labels. */
export const ITEM_STATES = [
  BulkDeletionItemState.STUCK,
  BulkDeletionItemState.SKIPPED,
  BulkDeletionItemState.COMPLETE,
  BulkDeletionItemState.PENDING,
  BulkDeletionItemState.RUNNING,
  BulkDeletionItemState.CANCELLED,
].map((state) => ({ value: String(state), label: entryOf(ITEMS, state)[0] }));
