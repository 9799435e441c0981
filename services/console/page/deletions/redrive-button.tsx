import { Button, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { IconRefresh } from '@tabler/icons-react';
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ConfirmDialog } from '../parts/confirm-dialog.tsx';
import { Gated } from '../parts/gated.tsx';
import { useReasonNot } from '../session.ts';
import { redriveDeletion } from './deletion-client.ts';

/** Sets a stuck deletion going again. */
export function RedriveButton({ deletion }: { readonly deletion: Deletion }) {
  const queries = useQueryClient();
  const scope = deletion.targetType === 'job' ? 'jobs:delete' : 'workflows:delete';
  const mayRedrive = useReasonNot({ role: 'admin', scope });
  const [isAsking, setAsking] = useState(false);
  return (
    <>
      <Gated because={mayRedrive}>
        <Button
          size="xs"
          leftSection={<IconRefresh size={14} aria-hidden />}
          aria-label={`Redrive the deletion of ${deletion.targetType} ${deletion.targetId}`}
          onClick={() => setAsking(true)}
        >
          Redrive
        </Button>
      </Gated>
      <ConfirmDialog
        opened={isAsking}
        onClose={() => setAsking(false)}
        title="Set this deletion going again?"
        confirmLabel="Redrive"
        reason="optional"
        onConfirm={async (reason) => {
          await redriveDeletion(deletion, reason);
          notifications.show({ message: 'The deletion goes on.' });
          await Promise.all(
            ['deletions', 'receipt', 'bulk-deletions', 'live-deletion'].map((key) =>
              queries.invalidateQueries({ queryKey: [key] }),
            ),
          );
        }}
      >
        <Text size="sm">
          It gets its attempts anew and goes on where it stopped. What was removed already is not counted twice.
        </Text>
      </ConfirmDialog>
    </>
  );
}
