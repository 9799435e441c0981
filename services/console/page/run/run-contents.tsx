import { Accordion, Badge, Code, Group, List, ScrollArea, Text } from '@mantine/core';
import { useState } from 'react';
import { ReferenceState, type Run } from '#gen/lethe/run/v1/run_pb.ts';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { formatBytes } from '../parts/format.ts';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { ResourceCounts } from '../parts/resource-counts.tsx';
import { useReasonNot } from '../session.ts';
import { usePurgePreview } from './purge-dialog.tsx';

/** What a run was given, what it resulted in, and what it holds in every service; folded until somebody looks. */
export function RunContents({ run }: { readonly run: Run }) {
  const mayPreview = useReasonNot({ role: 'admin', scope: 'workflows:delete' });
  const [open, setOpen] = useState<readonly string[]>([]);
  return (
    <Accordion multiple variant="contained" value={[...open]} onChange={setOpen} order={2}>
      <Accordion.Item value="holds">
        <Accordion.Control>What it holds in each service</Accordion.Control>
        <Accordion.Panel>
          {mayPreview ? (
            <Text size="sm" c="dimmed">
              {mayPreview}
            </Text>
          ) : (
            open.includes('holds') && <Holdings runId={run.id} />
          )}
        </Accordion.Panel>
      </Accordion.Item>
      <Accordion.Item value="input">
        <Accordion.Control>Input</Accordion.Control>
        <Accordion.Panel>
          <Json
            value={run.input}
            none="It was given nothing, or its input was removed when it was compensated."
            label="Input"
          />
        </Accordion.Panel>
      </Accordion.Item>
      <Accordion.Item value="output">
        <Accordion.Control>Output</Accordion.Control>
        <Accordion.Panel>
          <Json value={run.output} none="It has no output." label="Output" />
          {run.references.length > 0 && (
            <List size="sm" mt="sm">
              {run.references.map(({ field, participant, resourceType, state }) => (
                <List.Item key={field}>
                  <Group gap="xs">
                    <span className="mono">{field}</span> names a {resourceType} of {participant}
                    <Badge size="sm" variant="default" tt="none">
                      {state === ReferenceState.GONE
                        ? 'deleted'
                        : state === ReferenceState.EXISTS
                          ? 'there'
                          : 'unknown'}
                    </Badge>
                  </Group>
                </List.Item>
              ))}
            </List>
          )}
        </Accordion.Panel>
      </Accordion.Item>
    </Accordion>
  );
}

function Holdings({ runId }: { readonly runId: string }) {
  const preview = usePurgePreview(runId);
  if (preview.isPending) return <LoadingRows rows={3} />;
  if (preview.isError) return <ErrorAlert error={preview.error} onRetry={() => preview.refetch()} />;
  const { participants, totalBytes } = preview.data;
  return (
    <>
      {participants.map(({ participant, resourceCounts }) => (
        <div key={participant}>
          <Text size="sm" fw={600} mt="xs">
            {participant}
          </Text>
          <ResourceCounts
            label={`Held by ${participant}`}
            counts={resourceCounts.filter(({ found }) => found > 0n)}
            kind="preview"
          />
        </div>
      ))}
      <Text size="sm" c="dimmed" mt="xs">
        {formatBytes(totalBytes)} in all.
      </Text>
    </>
  );
}

function Json({ value, none, label }: { readonly value: unknown; readonly none: string; readonly label: string }) {
  if (value === undefined) {
    return (
      <Text size="sm" c="dimmed">
        {none}
      </Text>
    );
  }
  return (
    <ScrollArea.Autosize mah={360} viewportProps={{ tabIndex: 0, 'aria-label': label, role: 'region' }}>
      <Code block fz="xs">
        {JSON.stringify(value, undefined, 2)}
      </Code>
    </ScrollArea.Autosize>
  );
}
