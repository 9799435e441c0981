import { Group, Stack, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { JobView } from '#gen/lethe/job/v1/job_pb.ts';
import type { Run } from '#gen/lethe/run/v1/run_pb.ts';
import { linkToDeletion } from '../deletions/deletion-client.ts';
import { DeletionProgress } from '../deletions/deletion-progress.tsx';
import { DeletionBadge, deletionTitle, isMoving } from '../deletions/deletion-words.tsx';
import { JobBadge } from '../jobs/job-words.tsx';
import { nameOf } from '../parts/enum-names.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { toWords } from '../parts/format.ts';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { Section } from '../parts/section.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { incidents, jobs, runs } from '../rpc.ts';
import { useReasonNot } from '../session.ts';

const FEW = 50;

/** The jobs and incidents of a run, and what was done to end it. */
export function RunLinks({ run }: { readonly run: Run }) {
  const isAdmin = useReasonNot({ role: 'admin', scope: 'workflows:read' }) === undefined;
  const showDeleted = isAdmin && run.deleteTime !== undefined;
  const ofRun = { runId: run.id, pageSize: FEW } as const;
  const key = [run.id, run.etag];
  const jobsOf = useQuery({
    queryKey: ['jobs', 'run', ...key],
    queryFn: async ({ signal }) =>
      (await jobs.listJobs({ ...ofRun, showDeleted, view: JobView.BASIC }, { signal })).jobs,
  });
  const incidentsOf = useQuery({
    queryKey: ['incidents', 'run', ...key],
    queryFn: async ({ signal }) => (await incidents.listIncidents({ ...ofRun, showDeleted }, { signal })).incidents,
  });
  const deletionsOf = useQuery({
    queryKey: ['deletions', 'run', ...key],
    queryFn: async ({ signal }) => (await runs.listDeletions(ofRun, { signal })).deletions,
  });
  return (
    <>
      <Section title="Jobs">
        <Linked query={jobsOf} none="It has no jobs.">
          {(job) => (
            <Group key={job.id} gap="sm" justify="space-between">
              <TextLink to="/jobs" search={{ job: job.id }} className="wrap-anywhere">
                {job.displayName || `Job …${job.id.slice(-12)}`}
              </TextLink>
              <JobBadge state={job.state} />
            </Group>
          )}
        </Linked>
      </Section>
      <Section title="Incidents">
        <Linked query={incidentsOf} none="It has no incidents.">
          {(incident) => (
            <Group key={incident.id} gap="sm" justify="space-between">
              <TextLink to="/incidents/$id" params={{ id: incident.id }} className="wrap-anywhere">
                {incident.title}
              </TextLink>
              <Text size="xs" c="dimmed">
                {toWords(nameOf(IncidentState, incident.state))}
              </Text>
            </Group>
          )}
        </Linked>
      </Section>
      <Section title="Deletions of this run">
        <Linked query={deletionsOf} none="Nothing of it was deleted.">
          {(deletion) => (
            <Stack key={deletion.id} gap={4}>
              <Group gap="sm" justify="space-between">
                <TextLink {...linkToDeletion(deletion)}>{deletionTitle(deletion)}</TextLink>
                <DeletionBadge state={deletion.state} />
              </Group>
              {isMoving(deletion) ? (
                <DeletionProgress deletion={deletion} />
              ) : (
                <Text size="xs" c="dimmed">
                  by {deletion.actor || 'Lethe'} <RelativeTime time={deletion.createTime} />
                </Text>
              )}
            </Stack>
          )}
        </Linked>
      </Section>
    </>
  );
}

interface LinkedProps<Item> {
  readonly query: {
    readonly data: readonly Item[] | undefined;
    readonly isError: boolean;
    readonly error: unknown;
    refetch(): unknown;
  };
  readonly none: string;
  readonly children: (item: Item) => ReactNode;
}

function Linked<Item>({ query, none, children }: LinkedProps<Item>) {
  if (query.isError) return <ErrorAlert error={query.error} onRetry={query.refetch} />;
  if (!query.data) return <LoadingRows rows={2} />;
  if (query.data.length === 0) {
    return (
      <Text size="sm" c="dimmed">
        {none}
      </Text>
    );
  }
  return <Stack gap="xs">{query.data.map(children)}</Stack>;
}
