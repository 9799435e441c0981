import { ActionIcon, Box, Group, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { IconPlayerStop, IconTrash } from '@tabler/icons-react';
import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { type Job, JobState, JobView } from '#gen/lethe/job/v1/job_pb.ts';
import { BulkProgress } from '../bulk/bulk-progress.tsx';
import { MatchFilters, type MatchSearch } from '../bulk/match-filters.tsx';
import { linkToReceipt } from '../deletions/deletion-client.ts';
import { ConfirmDialog } from '../parts/confirm-dialog.tsx';
import { EmptyNote } from '../parts/empty-note.tsx';
import { constantOf, nameOf } from '../parts/enum-names.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { FilterText } from '../parts/filter-fields.tsx';
import { Gated } from '../parts/gated.tsx';
import { ListBody } from '../parts/list-body.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { ResourceCounts } from '../parts/resource-counts.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { ACTION_TOAST_MS } from '../parts/toasts.ts';
import { type Column, VirtualTable } from '../parts/virtual-table.tsx';
import { jobs } from '../rpc.ts';
import { createdBetween } from '../runs/runs-search.ts';
import { useReasonNot } from '../session.ts';
import { JobDrawer } from './job-drawer.tsx';
import { isCancellable, isDeletable, JOB_STATES, JobBadge, jobStateLabel } from './job-words.tsx';

/** What the address says about the list of jobs. */
export interface JobsSearch extends MatchSearch {
  /** The run whose jobs are listed. */
  readonly run?: string | undefined;
  /** The job that is shown beside the list. */
  readonly job?: string | undefined;
}

const PAGE_SIZE = 100;
const STATES = JOB_STATES.map((state) => ({ value: nameOf(JobState, state), label: jobStateLabel(state) }));
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const ODD_RUN_ID = 'A run id has 36 characters.';
const problemOfRunId = (run: string) => (run === '' || UUID.test(run) ? undefined : ODD_RUN_ID);

/** The tenant's transcription jobs, newest first. */
export function JobsPage({ search, onSearch }: PageProps<JobsSearch>) {
  const [gone, setGone] = useState<ReadonlySet<string>>(new Set());
  const [deleting, setDeleting] = useState<Job>();
  const [cancelling, setCancelling] = useState<Job>();
  const queries = useQueryClient();
  const mayDelete = useReasonNot({ role: 'admin', scope: 'jobs:delete' });
  const mayCancel = useReasonNot({ role: 'member', scope: 'jobs:write' });
  const state = constantOf(JobState, search.state);
  const filter = toFilter(search, state);
  const { job: shownJob, ...listed } = search;
  const isOdd = problemOfRunId(search.run ?? '') !== undefined;
  const query = useInfiniteQuery({
    queryKey: ['jobs', listed],
    queryFn: ({ signal, pageParam }) =>
      jobs.listJobs(
        {
          pageSize: PAGE_SIZE,
          pageToken: pageParam,
          view: JobView.BASIC,
          ...createdBetween(search),
          ...(state !== undefined && { state }),
          ...(search.run && { runId: search.run }),
        },
        { signal },
      ),
    enabled: !isOdd,
    initialPageParam: '',
    getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
  });
  const rows = (query.data?.pages.flatMap((page) => page.jobs) ?? []).filter(({ id }) => !gone.has(id));
  const columns: readonly Column<Job>[] = [
    {
      key: 'job',
      title: 'Job',
      cell: (job) => (
        <Box miw={0}>
          <TextLink to="/jobs" search={{ ...search, job: job.id }} fw={500} truncate display="block">
            {job.displayName || `Job …${job.id.slice(-12)}`}
          </TextLink>
          <Text size="xs" c="dimmed" truncate title={job.id}>
            <span className="mono">…{job.id.slice(-12)}</span>
            {job.error && ` · ${job.error}`}
          </Text>
        </Box>
      ),
    },
    { key: 'state', title: 'State', width: 130, cell: (job) => <JobBadge state={job.state} /> },
    {
      key: 'run',
      title: 'Run',
      width: 150,
      visibleFrom: 'sm',
      cell: ({ runId }) =>
        runId ? (
          <TextLink to="/runs/$id" params={{ id: runId }} className="mono">
            …{runId.slice(-12)}
          </TextLink>
        ) : (
          '–'
        ),
    },
    {
      key: 'created',
      title: 'Created',
      width: 140,
      visibleFrom: 'xs',
      cell: ({ createTime }) => <RelativeTime time={createTime} />,
    },
    {
      key: 'actions',
      title: '',
      width: 52,
      align: 'right',
      cell: (job) =>
        isDeletable(job) ? (
          <Gated because={mayDelete}>
            <ActionIcon
              variant="subtle"
              color="gray"
              title="Delete"
              aria-label={`Delete job ${job.displayName} ${job.id}`}
              onClick={() => setDeleting(job)}
            >
              <IconTrash size={17} aria-hidden />
            </ActionIcon>
          </Gated>
        ) : isCancellable(job) ? (
          <Gated because={mayCancel}>
            <ActionIcon
              variant="subtle"
              color="gray"
              title="Cancel"
              aria-label={`Cancel job ${job.displayName} ${job.id}`}
              onClick={() => setCancelling(job)}
            >
              <IconPlayerStop size={17} aria-hidden />
            </ActionIcon>
          </Gated>
        ) : null,
    },
  ];
  return (
    <>
      <PageHeader title="Jobs" description="Transcription jobs with their transcripts, newest first." />
      <BulkProgress kind="job" />
      <MatchFilters
        search={listed}
        onSearch={onSearch}
        states={STATES}
        matching={filter && { kind: 'job', filter }}
        isOdd={isOdd}
      >
        <FilterText
          label="Run id"
          placeholder="Of any run"
          value={search.run ?? ''}
          problemOf={problemOfRunId}
          onChange={(run) => onSearch({ ...listed, run: run || undefined })}
        />
      </MatchFilters>
      {isOdd ? (
        <EmptyNote>{ODD_RUN_ID} Until it has them, no job is looked for.</EmptyNote>
      ) : (
        <ListBody
          query={query}
          shown={rows.length}
          empty={<EmptyNote>{filter ? 'No job matches the filter.' : 'There are no jobs yet.'}</EmptyNote>}
        >
          <VirtualTable label="Jobs" rows={rows} rowKey={({ id }) => id} columns={columns} />
        </ListBody>
      )}
      {shownJob && <JobDrawer jobId={shownJob} onClose={() => onSearch(listed)} />}
      {deleting && (
        <DeleteJobDialog
          job={deleting}
          onClose={() => setDeleting(undefined)}
          onDeleted={() => setGone((before) => new Set(before).add(deleting.id))}
        />
      )}
      {cancelling && (
        <ConfirmDialog
          opened
          onClose={() => setCancelling(undefined)}
          title="Cancel this job?"
          confirmLabel="Cancel the job"
          color="red"
          reason="optional"
          onConfirm={async (reason) => {
            await jobs.cancelJob({ jobId: cancelling.id, reason });
            await queries.invalidateQueries({ queryKey: ['jobs'] });
          }}
        >
          <Text size="sm">Its worker is asked to stop; what it has uploaded so far stays.</Text>
        </ConfirmDialog>
      )}
    </>
  );
}

function toFilter(search: JobsSearch, state: JobState | undefined) {
  const filter = {
    ...createdBetween(search),
    ...(state !== undefined && { states: [state] }),
    ...(search.run && { runId: search.run }),
  };
  return Object.keys(filter).length > 0 ? filter : undefined;
}

interface DeleteJobDialogProps {
  readonly job: Job;
  readonly onClose: () => void;
  readonly onDeleted: () => void;
}

function DeleteJobDialog({ job, onClose, onDeleted }: DeleteJobDialogProps) {
  const queries = useQueryClient();
  const [requestId] = useState(() => crypto.randomUUID());
  const preview = useQuery({
    queryKey: ['delete-job-preview', job.id],
    queryFn: async ({ signal }) =>
      (await jobs.deleteJob({ jobId: job.id, validateOnly: true }, { signal })).deletion ?? null,
    staleTime: 0,
  });
  const counts = preview.data?.participants.flatMap(({ resourceCounts }) => resourceCounts) ?? [];
  const remove = async (reason: string) => {
    const { deletion } = await jobs.deleteJob({ jobId: job.id, reason, requestId, etag: job.etag });
    onDeleted();
    notifications.show({
      autoClose: ACTION_TOAST_MS,
      message: (
        <Group gap="sm">
          <Text size="sm">The job was deleted.</Text>
          {deletion && <TextLink {...linkToReceipt(deletion.id, 'job')}>Show the receipt</TextLink>}
        </Group>
      ),
    });
    await queries.invalidateQueries({ queryKey: ['jobs'] });
  };
  return (
    <ConfirmDialog
      opened
      onClose={onClose}
      title={`Delete ${job.displayName || 'this job'}?`}
      confirmLabel="Delete the job"
      isFinal
      reason="optional"
      blockedBecause={preview.isPending ? 'The service is being asked what would go.' : undefined}
      onConfirm={remove}
    >
      <Text size="sm">Are you sure? This will permanently delete the job and its transcript.</Text>
      {preview.isPending && <LoadingRows rows={2} />}
      {preview.isError && <ErrorAlert error={preview.error} onRetry={() => preview.refetch()} />}
      {preview.data && <ResourceCounts label="What will go" counts={counts} kind="preview" />}
    </ConfirmDialog>
  );
}
