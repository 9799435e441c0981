import { DataList, Drawer, Group, Stack, Table, Text, Title } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { nameOf } from '../parts/enum-names.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatBytes, toWords } from '../parts/format.ts';
import { IdText } from '../parts/id-text.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { TextLink } from '../parts/text-link.tsx';
import { jobs } from '../rpc.ts';
import { useReasonNot } from '../session.ts';
import { JobBadge, TaskBadge } from './job-words.tsx';

/** One job beside the list: its tasks and the objects it holds. */
export function JobDrawer({ jobId, onClose }: { readonly jobId: string; readonly onClose: () => void }) {
  const showDeleted = useReasonNot({ role: 'admin', scope: 'jobs:read' }) === undefined;
  const query = useQuery({
    queryKey: ['job', jobId],
    queryFn: async ({ signal }) => {
      const [{ job }, { artifacts }] = await Promise.all([
        jobs.getJob({ jobId, showDeleted }, { signal }),
        jobs.listArtifacts({ jobId, showDeleted, pageSize: 200 }, { signal }),
      ]);
      return job ? { job, artifacts } : null;
    },
  });
  const { data } = query;
  return (
    <Drawer opened onClose={onClose} size="lg" title={data?.job.displayName || 'Job'}>
      {query.isPending && <LoadingRows />}
      {query.isError && <ErrorAlert error={query.error} onRetry={() => query.refetch()} />}
      {data && (
        <Stack>
          <Group gap="sm">
            <JobBadge state={data.job.state} />
            <IdText id={data.job.id} />
          </Group>
          {data.job.error && (
            <Text size="sm" c="var(--mantine-color-error)" className="wrap-anywhere">
              {data.job.error}
            </Text>
          )}
          <DataList gap={6} labelWidth={110}>
            <Row label="Run">
              {data.job.runId ? (
                <TextLink to="/runs/$id" params={{ id: data.job.runId }} className="mono wrap-anywhere">
                  {data.job.runId}
                </TextLink>
              ) : (
                'None'
              )}
            </Row>
            {data.job.step && <Row label="Step">{data.job.step}</Row>}
            <Row label="Created">
              <RelativeTime time={data.job.createTime} />
            </Row>
            <Row label="Ended">{data.job.finishTime ? <RelativeTime time={data.job.finishTime} /> : 'Not yet'}</Row>
            {data.job.deleteTime && (
              <Row label="Deleted">
                <RelativeTime time={data.job.deleteTime} />, with its run
              </Row>
            )}
          </DataList>
          <section aria-label="Tasks">
            <Title order={3} size="h6" mb={6}>
              Tasks
            </Title>
            {data.job.tasks.length === 0 ? (
              <Text size="sm" c="dimmed">
                The job is not divided.
              </Text>
            ) : (
              <Stack gap={6}>
                {data.job.tasks.map((task) => (
                  <Group key={task.name} justify="space-between">
                    <Text size="sm" className="mono">
                      {task.name}
                    </Text>
                    <TaskBadge state={task.state} />
                  </Group>
                ))}
              </Stack>
            )}
          </section>
          <section aria-label="Objects">
            <Title order={3} size="h6" mb={6}>
              Objects
            </Title>
            {data.artifacts.length === 0 ? (
              <Text size="sm" c="dimmed">
                It holds no objects.
              </Text>
            ) : (
              <Table aria-label="Objects" verticalSpacing={4}>
                <Table.Thead>
                  <Table.Tr>
                    <Table.Th scope="col">Name</Table.Th>
                    <Table.Th scope="col">Kind</Table.Th>
                    <Table.Th scope="col" ta="right">
                      Size
                    </Table.Th>
                  </Table.Tr>
                </Table.Thead>
                <Table.Tbody>
                  {data.artifacts.map(({ kind, name, sizeBytes }) => (
                    <Table.Tr key={`${kind} ${name}`}>
                      <Table.Td className="wrap-anywhere">{name}</Table.Td>
                      <Table.Td>{toWords(nameOf(ArtifactKind, kind))}</Table.Td>
                      <Table.Td ta="right" className="numbers">
                        {formatBytes(sizeBytes)}
                      </Table.Td>
                    </Table.Tr>
                  ))}
                </Table.Tbody>
              </Table>
            )}
          </section>
        </Stack>
      )}
    </Drawer>
  );
}

const Row = ({ label, children }: { readonly label: string; readonly children: ReactNode }) => (
  <DataList.Item>
    <DataList.ItemLabel>{label}</DataList.ItemLabel>
    <DataList.ItemValue>{children}</DataList.ItemValue>
  </DataList.Item>
);
