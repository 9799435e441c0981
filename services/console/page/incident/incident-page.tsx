import { Anchor, Button, DataList, Grid, Group, Paper, Stack, Title } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import type { Incident, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { IncidentBadge, incidentStateLabel } from '../incidents/incident-words.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { Gated } from '../parts/gated.tsx';
import { IdText } from '../parts/id-text.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { RelativeTime } from '../parts/relative-time.tsx';
import { incidents } from '../rpc.ts';
import { useReasonNot } from '../session.ts';
import { Approvals } from './approvals.tsx';
import { DriftDetails } from './drift-details.tsx';
import { IncidentTimeline, Lifecycle } from './life-of-incident.tsx';
import { TransitionDialog } from './transition-dialog.tsx';

/** One incident. Everything but its drift details and approvals outlives a purge. */
export function IncidentPage({ id: incidentId }: PageProps) {
  const query = useQuery({
    queryKey: ['incident', incidentId],
    queryFn: async ({ signal }) => (await incidents.getIncident({ incidentId }, { signal })).incident,
  });
  const mayMove = useReasonNot({ role: 'member', scope: 'incidents:write' });
  const [next, setNext] = useState<IncidentState>();
  const incident = query.data;
  if (query.isError) {
    return (
      <>
        <PageHeader title="Incident" back={{ to: '/incidents', label: 'Incidents' }} />
        <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
      </>
    );
  }
  if (!incident) {
    return (
      <>
        <PageHeader title="Incident" back={{ to: '/incidents', label: 'Incidents' }} />
        <LoadingRows rows={8} />
      </>
    );
  }
  return (
    <>
      <PageHeader
        title={incident.title}
        back={{ to: '/incidents', label: 'Incidents' }}
        badge={<IncidentBadge incident={incident} />}
        actions={incident.nextStates.map((state) => (
          <Gated key={state} because={mayMove}>
            <Button onClick={() => setNext(state)}>Mark as {incidentStateLabel(state).toLowerCase()}</Button>
          </Gated>
        ))}
      />
      <Stack>
        <Lifecycle incident={incident} />
        <Grid>
          <Grid.Col span={{ base: 12, md: 7 }}>
            <Stack>
              <DriftDetails incident={incident} />
              <Approvals incident={incident} />
            </Stack>
          </Grid.Col>
          <Grid.Col span={{ base: 12, md: 5 }}>
            <Stack>
              <Details incident={incident} />
              <IncidentTimeline incident={incident} />
            </Stack>
          </Grid.Col>
        </Grid>
      </Stack>
      {next !== undefined && <TransitionDialog incident={incident} state={next} onClose={() => setNext(undefined)} />}
    </>
  );
}

function Details({ incident }: { readonly incident: Incident }) {
  const { environmentId } = incident;
  const environment = useQuery({
    queryKey: ['environment', environmentId],
    queryFn: async ({ signal }) => (await incidents.getEnvironment({ environmentId }, { signal })).environment,
  });
  return (
    <Paper withBorder p="md" component="section" aria-labelledby="details">
      <Group justify="space-between" mb="sm">
        <Title order={2} size="h4" id="details">
          Details
        </Title>
      </Group>
      <DataList labelWidth={110}>
        <Row label="Environment">
          <Anchor
            size="sm"
            renderRoot={(props) => <Link {...props} to="/environments" search={{ env: environmentId }} />}
          >
            {environment.data?.displayName ?? environmentId}
          </Anchor>
        </Row>
        {incident.runId && (
          <Row label="Run">
            <Anchor
              size="sm"
              renderRoot={(props) => <Link {...props} to="/runs/$id" params={{ id: incident.runId }} />}
            >
              {incident.runId}
            </Anchor>
          </Row>
        )}
        {incident.step && <Row label="Step">{incident.step}</Row>}
        <Row label="Opened">
          <RelativeTime time={incident.createTime} />
        </Row>
        {incident.closeTime && (
          <Row label="Closed">
            <RelativeTime time={incident.closeTime} />
          </Row>
        )}
        <Row label="Incident">
          <IdText id={incident.id} />
        </Row>
      </DataList>
    </Paper>
  );
}

const Row = ({ label, children }: { readonly label: string; readonly children: React.ReactNode }) => (
  <DataList.Item>
    <DataList.ItemLabel>{label}</DataList.ItemLabel>
    <DataList.ItemValue style={{ minWidth: 0, overflowWrap: 'anywhere' }}>{children}</DataList.ItemValue>
  </DataList.Item>
);
