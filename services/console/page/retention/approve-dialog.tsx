import { List, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { useQueryClient } from '@tanstack/react-query';
import {
  PurgeSubjectState,
  type RetentionPurge,
  type RetentionPurgeItem,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { formatCount, plural } from '../parts/format.ts';
import { ReasonDialog } from '../parts/reason-dialog.tsx';
import { retention } from '../rpc.ts';
import { subjectLabel } from './retention-words.tsx';

interface ApproveDialogProps {
  readonly purge: RetentionPurge;
  /** The tenant that is held. Undefined: the purge as a whole. */
  readonly item?: RetentionPurgeItem;
  readonly onClose: () => void;
}

/** Asks whether what the ceiling held should go, in numbers. */
export function ApproveDialog({ purge, item, onClose }: ApproveDialogProps) {
  const queries = useQueryClient();
  const held = item?.subjects.filter(({ state }) => state === PurgeSubjectState.HELD) ?? [];
  return (
    <ReasonDialog
      opened
      onClose={onClose}
      title={item ? `Purge what is held of ${item.tenantId}?` : 'Release the whole purge?'}
      confirmLabel={item ? 'Approve and purge' : 'Approve'}
      color="red"
      onConfirm={async (reason) => {
        await retention.approveHeldPurge({ purgeId: purge.id, tenantId: item?.tenantId ?? '', reason });
        await Promise.all([['purge', purge.id], ['purges']].map((queryKey) => queries.invalidateQueries({ queryKey })));
        notifications.show({ message: 'Approved; the purge goes on.' });
      }}
    >
      {item ? (
        <>
          <Text size="sm">This permanently deletes what has been counted, and no more:</Text>
          <List size="sm">
            {held.map(({ subject, expiredCount, hold }) => (
              <List.Item key={subject}>
                {subjectLabel(subject)}: {plural(hold?.expiredCount ?? expiredCount ?? 0n, 'row')}
              </List.Item>
            ))}
          </List>
        </>
      ) : (
        <Text size="sm">
          {formatCount(purge.fleetHold?.narrowedTenantCount ?? 0)} of its {plural(purge.tenantCount, 'tenant')} have a
          narrower window than in their last purge. They are purged by it at once.
        </Text>
      )}
    </ReasonDialog>
  );
}
