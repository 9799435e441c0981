import { Button, DataList, Group, Paper, Text, Title } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import type { ExecutionPolicy } from '#gen/lethe/retention/v1/retention_pb.ts';
import { ConfirmDialog } from '../parts/confirm-dialog.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatCount, plural } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { retention } from '../rpc.ts';
import { useReasonNot } from '../session.ts';
import { POLICY_KEY, readPolicy } from './policy.ts';
import { PolicyDialog } from './policy-dialog.tsx';

/** How long the tenant's executions are kept, with the means to change that. */
export function PolicyCard() {
  const queries = useQueryClient();
  const [isChanging, setChanging] = useState(false);
  // As it was when the dialog opened: the etag is of what the person saw.
  const [deleting, setDeleting] = useState<ExecutionPolicy>();
  const query = useQuery({ queryKey: POLICY_KEY, queryFn: ({ signal }) => readPolicy(signal) });
  const mayChange = useReasonNot({ role: 'admin', scope: 'retention:write' });
  if (query.isError) return <ErrorAlert error={query.error} onRetry={() => query.refetch()} />;
  if (query.isPending) return <LoadingRows rows={3} />;
  const policy = query.data;
  return (
    <Paper withBorder p="md" component="section" aria-labelledby="policy">
      <Group justify="space-between" mb="sm">
        <Title order={2} size="h4" id="policy">
          Retention policy
        </Title>
        <Group gap="xs">
          {policy && (
            <Gated because={mayChange}>
              <Button variant="subtle" color="red" size="xs" onClick={() => setDeleting(policy)}>
                Delete…
              </Button>
            </Gated>
          )}
          <Gated because={mayChange}>
            <Button variant="default" size="xs" onClick={() => setChanging(true)}>
              {policy ? 'Change…' : 'Set a policy…'}
            </Button>
          </Gated>
        </Group>
      </Group>
      {policy ? (
        <DataList labelWidth={150}>
          <Row label="Kept for">{policy.isEnabled ? plural(policy.retentionDays, 'day') : 'Everything: it is off'}</Row>
          <Row label="Always kept">the newest {formatCount(policy.minExecutionsToKeep)}</Row>
          <Row label="Still running">until {plural(policy.staleAfterDays, 'day')} past the window</Row>
          <Row label="Last cleanup">
            {policy.lastCleanupTime ? (
              <>
                <RelativeTime time={policy.lastCleanupTime} />, {formatCount(policy.lastCleanupDeletedCount)} removed
              </>
            ) : (
              'Never'
            )}
          </Row>
          <Row label="Changed">
            <RelativeTime time={policy.updateTime ?? policy.createTime} />
          </Row>
        </DataList>
      ) : (
        <Text size="sm" c="dimmed">
          This tenant has no policy of its own. Its executions are kept as long as its plan says, and without a plan for
          ever.
        </Text>
      )}
      {isChanging && <PolicyDialog policy={policy ?? undefined} onClose={() => setChanging(false)} />}
      <ConfirmDialog
        opened={deleting !== undefined}
        onClose={() => setDeleting(undefined)}
        title="Delete the retention policy?"
        confirmLabel="Delete policy"
        onConfirm={async () => {
          try {
            await retention.deleteExecutionPolicy({ etag: deleting?.etag ?? '' });
          } finally {
            await queries.invalidateQueries({ queryKey: POLICY_KEY });
          }
          notifications.show({ message: 'The policy was deleted.' });
        }}
      >
        <Text size="sm">What the tenant’s plan says then counts alone. No execution is removed by this.</Text>
      </ConfirmDialog>
    </Paper>
  );
}

const Row = ({ label, children }: { readonly label: string; readonly children: React.ReactNode }) => (
  <DataList.Item>
    <DataList.ItemLabel>{label}</DataList.ItemLabel>
    <DataList.ItemValue>{children}</DataList.ItemValue>
  </DataList.Item>
);
