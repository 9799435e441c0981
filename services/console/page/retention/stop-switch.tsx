import { Alert, Button, Group, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { IconHandStop } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { Gated } from '../parts/gated.tsx';
import { ReasonDialog } from '../parts/reason-dialog.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { retention } from '../rpc.ts';
import { useReasonNot } from '../session.ts';

/** The switch as it stands, asked for again every few seconds, since others may turn it. */
export const usePurgeStop = () =>
  useQuery({
    queryKey: ['purge-stop'],
    queryFn: async ({ signal }) => (await retention.getPurgeStop({}, { signal })).stop,
    refetchInterval: 5_000,
  });

/** The button that stops every purge; while they are stopped, StopBanner has the one that resumes them. */
export function StopButton() {
  const stop = usePurgeStop();
  const queries = useQueryClient();
  const mayStop = useReasonNot({ role: 'platform', scope: 'retention:purge' });
  const [isAsking, setAsking] = useState(false);
  if (!stop.data || stop.data.isStopped) return null;
  return (
    <>
      <Gated because={mayStop}>
        <Button
          color="red"
          variant="light"
          leftSection={<IconHandStop size={16} aria-hidden />}
          onClick={() => setAsking(true)}
        >
          Stop all purges
        </Button>
      </Gated>
      <ReasonDialog
        opened={isAsking}
        onClose={() => setAsking(false)}
        title="Stop all purges?"
        confirmLabel="Stop all purges"
        color="red"
        onConfirm={async (reason) => {
          await retention.stopPurges({ reason });
          await queries.invalidateQueries({ queryKey: ['purge-stop'] });
          notifications.show({ message: 'Purges are stopped.' });
        }}
      >
        <Text size="sm">
          Every purge by age stops within a batch, for all tenants. Purges that are ordered meanwhile wait. Deletions of
          single runs and jobs go on.
        </Text>
      </ReasonDialog>
    </>
  );
}

/** Says that purges are stopped, by whom and why. Shows nothing while they are not. */
export function StopBanner() {
  const stop = usePurgeStop();
  const queries = useQueryClient();
  const mayResume = useReasonNot({ role: 'platform', scope: 'retention:purge' });
  const [isAsking, setAsking] = useState(false);
  if (stop.isError) return <ErrorAlert error={stop.error} onRetry={() => stop.refetch()} />;
  if (!stop.data?.isStopped) return null;
  return (
    <Alert
      color="red"
      variant="light"
      mb="md"
      title="Purges are stopped"
      icon={<IconHandStop size={18} aria-hidden />}
      role="status"
    >
      <Group justify="space-between" gap="sm">
        <Text size="sm">
          Stopped by {stop.data.actor} <RelativeTime time={stop.data.changeTime} />: {stop.data.reason}
        </Text>
        <Gated because={mayResume}>
          <Button size="xs" color="red" onClick={() => setAsking(true)}>
            Resume purges
          </Button>
        </Gated>
      </Group>
      <ReasonDialog
        opened={isAsking}
        onClose={() => setAsking(false)}
        title="Resume purges?"
        confirmLabel="Resume purges"
        onConfirm={async (reason) => {
          await retention.resumePurges({ reason });
          await queries.invalidateQueries({ queryKey: ['purge-stop'] });
          notifications.show({ message: 'Purges go on.' });
        }}
      >
        <Text size="sm">What waited goes on at once.</Text>
      </ReasonDialog>
    </Alert>
  );
}
