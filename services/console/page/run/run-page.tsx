import { Alert, Badge, Button, DataList, Grid, Group, Stack, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import {
  IconAlertTriangle,
  IconArrowBackUp,
  IconFlame,
  IconPlayerStop,
  IconRefresh,
  IconTrash,
  IconTrashOff,
} from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { type ReactNode, useState } from 'react';
import { type Run, RunDriver, RunState, type RunStep } from '#gen/lethe/run/v1/run_pb.ts';
import { linkToDeletion } from '../deletions/deletion-client.ts';
import { DeletionBadge, deletionTitle } from '../deletions/deletion-words.tsx';
import { ConfirmDialog } from '../parts/confirm-dialog.tsx';
import { EmptyNote } from '../parts/empty-note.tsx';
import { ErrorAlert, reasonOf } from '../parts/error-alert.tsx';
import { formatSpan } from '../parts/format.ts';
import { Gated } from '../parts/gated.tsx';
import { IdText } from '../parts/id-text.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { Section } from '../parts/section.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { useWatch } from '../parts/use-watch.ts';
import { runs } from '../rpc.ts';
import { isTerminal, RunBadge, runTitle } from '../runs/run-words.tsx';
import { useRunActions } from '../runs/use-run-actions.tsx';
import { useReasonNot } from '../session.ts';
import { PurgeDialog } from './purge-dialog.tsx';
import { RunContents } from './run-contents.tsx';
import { RunLinks } from './run-links.tsx';
import { RunSteps } from './run-steps.tsx';

const BACK = { to: '/runs', label: 'Runs' } as const;
const STEP_PAGE = 200;

/** One run: where it stands, its steps with what they did in each service, and what can be done about it. */
export function RunPage({ id }: PageProps) {
  const isAdmin = useReasonNot({ role: 'admin', scope: 'workflows:read' }) === undefined;
  const queries = useQueryClient();
  const query = useQuery({
    queryKey: ['run', id],
    queryFn: async ({ signal }) => {
      const [{ run }, { steps }] = await Promise.all([
        runs.getRun({ runId: id, showDeleted: isAdmin }, { signal }),
        runs.listRunSteps({ runId: id, pageSize: STEP_PAGE, showDeleted: isAdmin }, { signal }),
      ]);
      return run ? { run, steps } : null;
    },
  });
  const shown = query.data;
  useWatch(
    shown && !isTerminal(shown.run) ? id : undefined,
    (signal) => runs.watchRun({ runId: id, showDeleted: isAdmin }, { signal }),
    ({ run, steps }) => {
      if (!run) return;
      // The stream leaves out what did not change; input, output and steps that are known stay.
      queries.setQueryData<{ run: Run; steps: RunStep[] }>(['run', id], (before) => ({
        run: before?.run.input && !run.input && !isTerminal(run) ? { ...run, input: before.run.input } : run,
        steps: mergeSteps(before?.steps ?? [], steps),
      }));
      if (isTerminal(run)) void queries.invalidateQueries({ queryKey: ['run', id] });
    },
  );
  if (query.isError && reasonOf(query.error) === 'RUN_NOT_FOUND') return <GoneRun id={id} error={query.error} />;
  if (query.isError || !shown) {
    return (
      <>
        <PageHeader title="Run" back={BACK} />
        {query.isError ? <ErrorAlert error={query.error} onRetry={() => query.refetch()} /> : <LoadingRows rows={8} />}
      </>
    );
  }
  const { run, steps } = shown;
  return (
    <>
      <PageHeader
        title={runTitle(run)}
        back={BACK}
        badge={
          <>
            <RunBadge state={run.state} />
            {run.deleteTime && (
              <Badge variant="outline" color="red" tt="none" leftSection={<IconTrash size={12} aria-hidden />}>
                Deleted
              </Badge>
            )}
          </>
        }
        description={<IdText id={run.id} />}
        actions={<RunActions run={run} />}
      />
      <Notes run={run} />
      <Grid gap="md">
        <Grid.Col span={{ base: 12, md: 7 }}>
          <Stack>
            <Section title="Steps">
              {steps.length > 0 ? <RunSteps steps={steps} /> : <EmptyNote>No step has begun.</EmptyNote>}
            </Section>
            <RunContents run={run} />
          </Stack>
        </Grid.Col>
        <Grid.Col span={{ base: 12, md: 5 }}>
          <Stack>
            <Section title="About">
              <About run={run} />
            </Section>
            <RunLinks run={run} />
          </Stack>
        </Grid.Col>
      </Grid>
    </>
  );
}

function mergeSteps(before: readonly RunStep[], changed: readonly RunStep[]): RunStep[] {
  const byName = new Map(before.map((step) => [step.name, step]));
  for (const step of changed) byName.set(step.name, step);
  return [...byName.values()].toSorted((a, b) => a.position - b.position);
}

function Notes({ run }: { readonly run: Run }) {
  return (
    <>
      {run.deleteTime && (
        <Alert
          color="gray"
          variant="light"
          icon={<IconTrashOff aria-hidden />}
          mb="md"
          title="Deleted, can be undeleted"
        >
          <Text size="sm">
            By {run.deletedBy} <RelativeTime time={run.deleteTime} />
            {run.deleteReason && `: ${run.deleteReason}`}. It is hidden with its jobs until it is undeleted or purged.
          </Text>
        </Alert>
      )}
      {run.error && (
        <Alert color="red" variant="light" icon={<IconAlertTriangle aria-hidden />} mb="md" title="Why it failed">
          <Text size="sm" className="wrap-anywhere">
            {run.error}
          </Text>
        </Alert>
      )}
      {run.parkedReason && (
        <Alert
          color="red"
          variant="light"
          mb="md"
          title="Its compensation cannot finish"
          icon={<IconAlertTriangle aria-hidden />}
        >
          <Text size="sm" className="wrap-anywhere">
            {run.parkedReason}
          </Text>
          <Text size="sm" fw={500} mt={4}>
            Effects may be left. Mend the cause, then retry the compensation.
          </Text>
        </Alert>
      )}
    </>
  );
}

function About({ run }: { readonly run: Run }) {
  const { createTime, finishTime } = run;
  const rows: readonly (readonly [string, ReactNode])[] = [
    [
      'Workflow',
      <span key="w" className="mono">
        {run.workflow}
      </span>,
    ],
    ['Driven by', run.driver === RunDriver.ENGINE ? 'Lethe' : 'Its caller'],
    ['Created', <RelativeTime key="c" time={createTime} />],
    ['Began', run.startTime ? <RelativeTime key="s" time={run.startTime} /> : 'Not yet'],
    ['Ended', finishTime ? <RelativeTime key="f" time={finishTime} /> : 'Not yet'],
    ...(createTime && finishTime ? ([['Took', formatSpan(createTime, finishTime)]] as const) : []),
    ...(run.attempts > 0 ? ([['Failed attempts', String(run.attempts)]] as const) : []),
  ];
  return (
    <DataList gap={6} labelWidth={120}>
      {rows.map(([label, value]) => (
        <DataList.Item key={label}>
          <DataList.ItemLabel>{label}</DataList.ItemLabel>
          <DataList.ItemValue>{value}</DataList.ItemValue>
        </DataList.Item>
      ))}
    </DataList>
  );
}

function RunActions({ run }: { readonly run: Run }) {
  const { softDelete, undelete, refresh } = useRunActions();
  const mayCancel = useReasonNot({ role: 'member', scope: 'workflows:write' });
  const mayRetry = useReasonNot({ role: 'admin', scope: 'workflows:write' });
  const mayDelete = useReasonNot({ role: 'admin', scope: 'workflows:delete' });
  const [asking, setAsking] = useState<'cancel' | 'purge'>();
  const notYet = isTerminal(run) ? undefined : 'It is still going on; cancel it first.';
  const retry = async () => {
    await runs.retryRun({ runId: run.id, etag: run.etag });
    notifications.show({ message: 'Its compensation goes on.' });
    await refresh();
  };
  return (
    <>
      {run.state === RunState.RUNNING && (
        <Gated because={mayCancel}>
          <Button
            variant="default"
            leftSection={<IconPlayerStop size={16} aria-hidden />}
            onClick={() => setAsking('cancel')}
          >
            Cancel
          </Button>
        </Gated>
      )}
      {run.parkedReason && <RetryButton because={mayRetry} onRetry={retry} />}
      {run.deleteTime ? (
        <Gated because={mayDelete}>
          <Button
            variant="default"
            leftSection={<IconArrowBackUp size={16} aria-hidden />}
            onClick={() => void undelete(run)}
          >
            Undelete
          </Button>
        </Gated>
      ) : (
        <Gated because={mayDelete ?? notYet}>
          <Button
            variant="default"
            leftSection={<IconTrash size={16} aria-hidden />}
            onClick={() => void softDelete(run)}
          >
            Delete
          </Button>
        </Gated>
      )}
      <Gated because={mayDelete ?? notYet}>
        <Button
          variant="light"
          color="red"
          leftSection={<IconFlame size={16} aria-hidden />}
          onClick={() => setAsking('purge')}
        >
          Purge…
        </Button>
      </Gated>
      {asking === 'purge' && <PurgeDialog run={run} onClose={() => setAsking(undefined)} />}
      <ConfirmDialog
        opened={asking === 'cancel'}
        onClose={() => setAsking(undefined)}
        title="Cancel the run?"
        confirmLabel="Cancel the run"
        color="red"
        reason="optional"
        onConfirm={async (reason) => {
          await runs.cancelRun({ runId: run.id, reason });
          await refresh();
        }}
      >
        <Text size="sm">
          The run stops, and what its steps have done so far is removed, newest step first. Its input goes at once.
        </Text>
      </ConfirmDialog>
    </>
  );
}

function RetryButton({
  because,
  onRetry,
}: {
  readonly because: string | undefined;
  readonly onRetry: () => Promise<void>;
}) {
  const [error, setError] = useState<unknown>();
  const [isBusy, setBusy] = useState(false);
  const retry = () => {
    setBusy(true);
    setError(undefined);
    onRetry()
      .catch(setError)
      .finally(() => setBusy(false));
  };
  return (
    <>
      <Gated because={because}>
        <Button variant="default" leftSection={<IconRefresh size={16} aria-hidden />} loading={isBusy} onClick={retry}>
          Retry the compensation
        </Button>
      </Gated>
      {error !== undefined && <ErrorAlert error={error} />}
    </>
  );
}

/** A run that is not there: purged, with its receipts, or never known to this tenant. */
function GoneRun({ id, error }: { readonly id: string; readonly error: unknown }) {
  const query = useQuery({
    queryKey: ['deletions', 'run', id],
    queryFn: async ({ signal }) => (await runs.listDeletions({ runId: id }, { signal })).deletions,
  });
  const deletions = query.data ?? [];
  return (
    <>
      <PageHeader title="Run" back={BACK} description={<IdText id={id} />} />
      {deletions.length === 0 ? (
        !query.isPending && <ErrorAlert error={error} />
      ) : (
        <Section title="This run is not here any more">
          <Text size="sm" mb="sm">
            What happened to it is kept in these receipts:
          </Text>
          <Stack gap={6}>
            {deletions.map((deletion) => (
              <Group key={deletion.id} gap="sm">
                <TextLink {...linkToDeletion(deletion)}>{deletionTitle(deletion)}</TextLink>
                <DeletionBadge state={deletion.state} />
                <Text size="xs" c="dimmed">
                  by {deletion.actor} <RelativeTime time={deletion.createTime} />
                </Text>
              </Group>
            ))}
          </Stack>
        </Section>
      )}
    </>
  );
}
