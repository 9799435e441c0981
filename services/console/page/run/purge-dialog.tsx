import { Alert, Checkbox, List, Stack, Text } from '@mantine/core';
import { IconHandStop } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import type { Run } from '#gen/lethe/run/v1/run_pb.ts';
import type { PreviewPurgeRunResponse } from '#gen/lethe/run/v1/run_service_pb.ts';
import { linkToDeletion } from '../deletions/deletion-client.ts';
import { ConfirmDialog } from '../parts/confirm-dialog.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatBytes, formatInstant, plural } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { ResourceCounts } from '../parts/resource-counts.tsx';
import { runs } from '../rpc.ts';
import { runTitle } from '../runs/run-words.tsx';
import { useReasonNot } from '../session.ts';

/** What a purge of a run would take in every service, and what forbids it. */
export const usePurgePreview = (runId: string, isWanted = true) =>
  useQuery({
    queryKey: ['purge-preview', runId],
    queryFn: ({ signal }) => runs.previewPurgeRun({ runId }, { signal }),
    enabled: isWanted,
    staleTime: 0,
  });

/** Asks before a run is purged: what will go in numbers, why, and its id typed. Then leads to the purge's progress. */
export function PurgeDialog({ run, onClose }: { readonly run: Run; readonly onClose: () => void }) {
  const preview = usePurgePreview(run.id);
  const navigate = useNavigate();
  const queries = useQueryClient();
  const mayForce = useReasonNot({ role: 'owner', scope: 'workflows:delete' });
  const [force, setForce] = useState(false);
  const [requestId] = useState(() => crypto.randomUUID());
  const { data } = preview;
  const others = data?.blockers.filter(({ reason }) => reason !== 'RETENTION_GUARD') ?? [];
  const isGuarded = data?.blockers.some(({ reason }) => reason === 'RETENTION_GUARD') ?? false;
  const purge = async (reason: string) => {
    const { deletion } = await runs.purgeRun({ runId: run.id, reason, force: force && isGuarded, requestId });
    for (const key of ['runs', 'deleted-runs', 'deletions']) void queries.invalidateQueries({ queryKey: [key] });
    if (deletion) void navigate(linkToDeletion(deletion));
  };
  return (
    <ConfirmDialog
      opened
      onClose={onClose}
      title={`Purge ${runTitle(run)}?`}
      confirmLabel="Purge this run"
      isFinal
      reason="required"
      typed={{
        text: run.id,
        label: (
          <>
            Type the run's id to confirm: <span className="mono">{run.id}</span>
          </>
        ),
      }}
      blockedBecause={blockedBecause(data, others.length, isGuarded && !force)}
      onConfirm={purge}
    >
      {preview.isError && <ErrorAlert error={preview.error} onRetry={() => preview.refetch()} />}
      {preview.isPending && <LoadingRows rows={4} />}
      {data && (
        <Stack gap="sm">
          <Text size="sm">
            This takes <strong>{plural(countOf(data), 'thing')}</strong>
            {data.totalBytes > 0n && ` (${formatBytes(data.totalBytes)})`} for good, in every service:
          </Text>
          {data.participants
            .filter(({ resourceCounts }) => resourceCounts.some(({ found }) => found > 0n))
            .map(({ participant, resourceCounts }) => (
              <div key={participant}>
                <Text size="sm" fw={600}>
                  {participant}
                </Text>
                <ResourceCounts
                  label={`What goes from ${participant}`}
                  counts={resourceCounts.filter(({ found }) => found > 0n)}
                  kind="preview"
                />
              </div>
            ))}
          {others.length > 0 && (
            <Alert color="orange" variant="light" icon={<IconHandStop aria-hidden />} title="This forbids the purge">
              <List size="sm">
                {others.map(({ reason, resourceId, message }) => (
                  <List.Item key={`${reason} ${resourceId}`}>{message}</List.Item>
                ))}
              </List>
            </Alert>
          )}
          {isGuarded && (
            <Alert color="orange" variant="light" icon={<IconHandStop aria-hidden />} title="Too young to be purged">
              <Text size="sm" mb="xs">
                The age guard lets it go {data.purgeableTime ? `from ${formatInstant(data.purgeableTime)} on` : 'later'}
                .
              </Text>
              <Gated because={mayForce}>
                <Checkbox
                  label="Override the age guard"
                  checked={force}
                  onChange={(event) => setForce(event.currentTarget.checked)}
                />
              </Gated>
            </Alert>
          )}
        </Stack>
      )}
    </ConfirmDialog>
  );
}

const countOf = ({ participants }: PreviewPurgeRunResponse): bigint =>
  participants.flatMap(({ resourceCounts }) => resourceCounts).reduce((sum, { left }) => sum + left, 0n);

function blockedBecause(
  data: PreviewPurgeRunResponse | undefined,
  blockerCount: number,
  isHeldByAge: boolean,
): string | undefined {
  if (!data) return 'The services are being asked what would go.';
  if (blockerCount > 0) return 'It cannot be purged while something forbids it.';
  return isHeldByAge ? 'It cannot be purged before the age guard lets it go.' : undefined;
}
