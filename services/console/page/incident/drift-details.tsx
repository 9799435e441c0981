import type { JsonValue } from '@bufbuild/protobuf';
import { Alert, Code, DataList, Paper, Text, Title } from '@mantine/core';
import { IconArchive } from '@tabler/icons-react';
import { type Incident, PayloadState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { RelativeTime } from '../parts/relative-time.tsx';

/** What an incident's check found; or why it is not there: purged and never recorded do not look the same. */
export function DriftDetails({ incident }: { readonly incident: Incident }) {
  return (
    <Paper withBorder p="md" component="section" aria-labelledby="drift-summary">
      <Title order={2} size="h4" id="drift-summary" mb="sm">
        Drift summary
      </Title>
      <DriftSummary incident={incident} />
    </Paper>
  );
}

function DriftSummary({ incident }: { readonly incident: Incident }) {
  const { driftSummary, payloadState, payloadNotice, payloadPurgeTime } = incident;
  if (payloadState === PayloadState.PURGED) {
    return (
      <Alert variant="light" color="gray" icon={<IconArchive size={18} aria-hidden />} role="status">
        <Text size="sm" fw={600}>
          {payloadNotice}
        </Text>
        <Text size="sm" c="dimmed">
          Purged <RelativeTime time={payloadPurgeTime} />. The timeline, the status and the links of this incident stay.
        </Text>
      </Alert>
    );
  }
  const entries = Object.entries(driftSummary ?? {});
  if (payloadState === PayloadState.ABSENT || entries.length === 0) {
    return (
      <Text size="sm" c="dimmed">
        No drift details were recorded with this incident.
      </Text>
    );
  }
  return (
    <DataList labelWidth={140}>
      {entries.map(([name, value]) => (
        <DataList.Item key={name}>
          <DataList.ItemLabel>{name}</DataList.ItemLabel>
          <DataList.ItemValue style={{ minWidth: 0, overflowWrap: 'anywhere' }}>
            <Value name={name} value={value} />
          </DataList.ItemValue>
        </DataList.Item>
      ))}
    </DataList>
  );
}

/** What is flat as text, the rest as JSON. */
function Value({ name, value }: { readonly name: string; readonly value: JsonValue }) {
  if (typeof value !== 'object' || value === null) return String(value);
  if (Array.isArray(value) && value.every((one) => typeof one !== 'object')) return value.join(', ') || '–';
  return (
    <Code block tabIndex={0} aria-label={name} style={{ maxHeight: 320, overflow: 'auto' }}>
      {JSON.stringify(value, undefined, 2)}
    </Code>
  );
}
