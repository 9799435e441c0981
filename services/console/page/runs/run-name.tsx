import { Box, Text } from '@mantine/core';
import type { Run } from '#gen/lethe/run/v1/run_pb.ts';
import { TextLink } from '../parts/text-link.tsx';
import { runTitle } from './run-words.tsx';

/** A run's name with what tells it from others of the name. */
export function RunName({ run }: { readonly run: Run }) {
  return (
    <Box miw={0}>
      <TextLink to="/runs/$id" params={{ id: run.id }} fw={500} truncate display="block">
        {runTitle(run)}
      </TextLink>
      <Text size="xs" c="dimmed" truncate title={run.id}>
        {run.displayName ? `${run.workflow} · ` : ''}
        <span className="mono">…{run.id.slice(-12)}</span>
        {run.currentStep && ` · ${run.currentStep}`}
        {run.error && ` · ${run.error}`}
      </Text>
    </Box>
  );
}
