import { List } from '@mantine/core';
import type { SkipCount } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { plural, toWords } from '../parts/format.ts';
import type { BulkKind } from './bulk-clients.ts';

// What is the matter with one item, and with several.
const REASONS: Readonly<Record<string, readonly [one: string, many: string]>> = {
  RUN_NOT_TERMINAL: ['has not ended yet', 'have not ended yet'],
  JOB_NOT_TERMINAL: ['has not ended yet', 'have not ended yet'],
  RETENTION_GUARD: ['is too young to be purged', 'are too young to be purged'],
  ALREADY_DELETED: ['was hidden already', 'were hidden already'],
  UNDELETED: ['was undeleted meanwhile', 'were undeleted meanwhile'],
  ETAG_MISMATCH: ['was changed meanwhile', 'were changed meanwhile'],
  RUN_NOT_FOUND: ['was gone already', 'were gone already'],
  JOB_NOT_FOUND: ['was gone already', 'were gone already'],
  OPERATION_IN_PROGRESS: ['was in another deletion', 'were in other deletions'],
};

/** Why a bulk deletion leaves these items alone: `3 runs have not ended yet.` */
export function leftAlone(kind: BulkKind, reason: string, count: bigint): string {
  const [one, many] = REASONS[reason] ?? [`was refused: ${toWords(reason)}`, `were refused: ${toWords(reason)}`];
  return `${plural(count, kind)} ${count === 1n ? one : many}.`;
}

interface LeftAloneProps {
  readonly kind: BulkKind;
  readonly skips: readonly SkipCount[];
}

/** A sentence for each reason why items are left alone. */
export const LeftAlone = ({ kind, skips }: LeftAloneProps) => (
  <List size="sm">
    {skips.map(({ reason, count }) => (
      <List.Item key={reason}>{leftAlone(kind, reason, count)}</List.Item>
    ))}
  </List>
);
