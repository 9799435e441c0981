import { Alert, Button, Drawer, Group, Paper, Progress, Stack, Table, Text } from '@mantine/core';
import { IconHandStop } from '@tabler/icons-react';
import { useState } from 'react';
import {
  PurgeItemState,
  PurgeState,
  PurgeSubjectState,
  type RetentionPurge,
  type RetentionPurgeItem,
  type RetentionPurgeSubject,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatCount, formatDuration, plural } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { IdText } from '../parts/id-text.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { useReasonNot } from '../session.ts';
import { ApproveDialog } from './approve-dialog.tsx';
import { usePurge } from './purge-query.ts';
import {
  hasEnded,
  ItemBadge,
  PurgeBadge,
  PurgeSubjectBadge,
  subjectLabel,
  triggerLabel,
  windowLabel,
} from './retention-words.tsx';

/** One purge, live while it runs: each tenant, each subject, what went, what is held and why. */
export function PurgeDrawer({ purgeId, onClose }: { readonly purgeId: string; readonly onClose: () => void }) {
  const query = usePurge(purgeId);
  return (
    <Drawer
      opened
      onClose={onClose}
      position="right"
      size="xl"
      title="Retention purge"
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      {query.isError ? (
        <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
      ) : query.isPending ? (
        <LoadingRows />
      ) : (
        <Stack>
          <PurgeHead purge={query.data.purge} />
          {query.data.items.map((item) => (
            <ItemCard key={item.tenantId} purge={query.data.purge} item={item} />
          ))}
          {query.data.hasMore && (
            <EmptyNote>Only the first {formatCount(query.data.items.length)} tenants are shown.</EmptyNote>
          )}
        </Stack>
      )}
    </Drawer>
  );
}

function PurgeHead({ purge }: { readonly purge: RetentionPurge }) {
  const [isApproving, setApproving] = useState(false);
  const mayApprove = useReasonNot({ role: 'platform', scope: 'retention:purge' });
  const done = purge.completeTenantCount + purge.failedTenantCount + purge.heldTenantCount + purge.skippedTenantCount;
  const hold = purge.fleetHold;
  return (
    <Stack gap="xs">
      <Group gap="sm">
        <span role="status" aria-live="polite">
          <PurgeBadge purge={purge} />
        </span>
        {purge.validateOnly && <Text size="sm">Counts only: nothing is removed.</Text>}
        <IdText id={purge.id} />
      </Group>
      <Text size="sm" c="dimmed">
        {triggerLabel(purge.trigger)} by {purge.actor} <RelativeTime time={purge.createTime} />
        {purge.reason && `: ${purge.reason}`}
      </Text>
      {purge.tenantCount > 1 && (
        <>
          <Text size="sm">
            {formatCount(done)} of {plural(purge.tenantCount, 'tenant')} done
            {purge.failedTenantCount > 0 && `, ${formatCount(purge.failedTenantCount)} failed`}
            {purge.heldTenantCount > 0 && `, ${formatCount(purge.heldTenantCount)} held`}
          </Text>
          {!hasEnded(purge) && <Progress value={(100 * done) / purge.tenantCount} aria-label="Tenants done" animated />}
        </>
      )}
      {purge.stop?.isStopped && !hasEnded(purge) && (
        <Alert color="red" variant="light" icon={<IconHandStop size={18} aria-hidden />}>
          It waits, as purges are stopped by {purge.stop.actor}: {purge.stop.reason}
        </Alert>
      )}
      {hold && (
        <Alert color="violet" variant="light" title="The ceiling over all tenants holds it">
          <Text size="sm">
            {formatCount(hold.narrowedTenantCount)} of its {plural(hold.tenantCount, 'tenant')} have a narrower window
            than in their last purge. Held <RelativeTime time={hold.holdTime} />.
          </Text>
          {hold.approveTime ? (
            <Text size="sm">
              Approved by {hold.approvedBy} <RelativeTime time={hold.approveTime} />: {hold.approveReason}
            </Text>
          ) : (
            purge.state === PurgeState.HELD && (
              <Gated because={mayApprove}>
                <Button size="xs" mt="xs" onClick={() => setApproving(true)}>
                  Approve…
                </Button>
              </Gated>
            )
          )}
        </Alert>
      )}
      {isApproving && <ApproveDialog purge={purge} onClose={() => setApproving(false)} />}
    </Stack>
  );
}

function ItemCard({ purge, item }: { readonly purge: RetentionPurge; readonly item: RetentionPurgeItem }) {
  const [isApproving, setApproving] = useState(false);
  const mayApprove = useReasonNot({ role: 'platform', scope: 'retention:purge' });
  // A purge that is held as a whole is approved as a whole.
  const isHeld = item.state === PurgeItemState.HELD && purge.state !== PurgeState.HELD;
  return (
    <Paper withBorder p="md" component="section" aria-label={`Tenant ${item.tenantId}`}>
      <Group justify="space-between" mb="xs">
        <Group gap="sm">
          <Text fw={600}>{item.tenantId}</Text>
          <ItemBadge state={item.state} />
        </Group>
        {isHeld && (
          <Gated because={mayApprove}>
            <Button size="xs" onClick={() => setApproving(true)}>
              Approve…
            </Button>
          </Gated>
        )}
      </Group>
      {item.error && (
        <Alert color="red" variant="light" mb="xs">
          {item.error}
        </Alert>
      )}
      {item.subjects.length === 0 ? (
        <EmptyNote>
          {item.runningPurgeId ? `Left to the purge ${item.runningPurgeId}, which was running.` : 'Not begun yet.'}
        </EmptyNote>
      ) : (
        <Stack gap="sm">
          {item.subjects.map((subject) => (
            <SubjectPart key={subject.subject} subject={subject} isDryRun={purge.validateOnly} />
          ))}
        </Stack>
      )}
      {isApproving && <ApproveDialog purge={purge} item={item} onClose={() => setApproving(false)} />}
    </Paper>
  );
}

function SubjectPart({ subject, isDryRun }: { readonly subject: RetentionPurgeSubject; readonly isDryRun: boolean }) {
  const { hold, window, expiredCount, resourceCounts, state, waits } = subject;
  const removed = resourceCounts.reduce((sum, { deleted }) => sum + deleted, 0n);
  const isRunning = state === PurgeSubjectState.RUNNING;
  return (
    <div>
      <Group gap="sm" justify="space-between">
        <Text size="sm" fw={500}>
          {subjectLabel(subject.subject)}{' '}
          {window && (
            <Text span size="xs" c="dimmed">
              kept: {windowLabel(window.kind, window.retentionDays).toLowerCase()}
            </Text>
          )}
        </Text>
        <PurgeSubjectBadge state={state} />
      </Group>
      {state !== PurgeSubjectState.KEPT && (
        <Text size="sm" c="dimmed">
          {expiredCount === undefined ? 'Not counted yet' : `${formatCount(expiredCount)} expired`}
          {!isDryRun && state !== PurgeSubjectState.OBSERVED && `, ${formatCount(removed)} rows removed`}
        </Text>
      )}
      {isRunning && Boolean(expiredCount) && (
        <Progress
          mt={4}
          animated
          aria-label={`${subjectLabel(subject.subject)}: removed`}
          value={Math.min(100, (100 * Number(resourceCounts[0]?.deleted ?? 0n)) / Number(expiredCount))}
        />
      )}
      {!isDryRun && resourceCounts.length > 1 && removed > 0n && (
        <Table mt={4} aria-label={`Counts of ${subjectLabel(subject.subject)}`}>
          <Table.Tbody>
            {resourceCounts.map((count) => (
              <Table.Tr key={count.resourceType}>
                <Table.Td>{subjectLabel(count.resourceType)}</Table.Td>
                <Table.Td ta="right" className="numbers">
                  {count.atLeast && 'at least '}
                  {formatCount(count.deleted)}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
      {hold && (
        <Alert color="violet" variant="light" mt="xs">
          <Text size="sm">{holdText(hold)}</Text>
          {hold.approveTime ? (
            <Text size="sm">
              Approved by {hold.approvedBy} <RelativeTime time={hold.approveTime} />: {hold.approveReason}
              {hold.approvedRows !== undefined && ` (at most ${plural(hold.approvedRows, 'row')})`}
            </Text>
          ) : (
            <Text size="sm" c="dimmed">
              Held <RelativeTime time={hold.holdTime} />, until somebody approves it.
            </Text>
          )}
        </Alert>
      )}
      {waits.map(({ cause, duration }) => (
        <Text key={cause} size="xs" c="dimmed">
          Stood still {duration ? formatDuration(duration) : ''} ({cause.toLowerCase().replaceAll('_', ' ')})
        </Text>
      ))}
      {subject.error && (
        <Alert color="red" variant="light" mt="xs">
          {subject.error}
        </Alert>
      )}
    </div>
  );
}

const SHARE = new Intl.NumberFormat('en-GB', { style: 'percent', maximumFractionDigits: 1 });

/** Why a subject is held, in numbers. */
export function holdText(hold: NonNullable<RetentionPurgeSubject['hold']>): string {
  const { expiredCount, totalCount, maxShare, maxCount } = hold;
  const limits = [
    ...(maxShare === undefined ? [] : [SHARE.format(maxShare)]),
    ...(maxCount === undefined ? [] : [plural(maxCount, 'row')]),
  ].join(' or ');
  if (expiredCount === undefined || totalCount === undefined) {
    return `What would go could not be counted; the ceiling is ${limits}.`;
  }
  const share = totalCount > 0n ? ` (${SHARE.format(Number(expiredCount) / Number(totalCount))})` : '';
  return `${formatCount(expiredCount)} of the ${plural(totalCount, 'row')} seen would go${share}; the ceiling is ${limits}.`;
}
