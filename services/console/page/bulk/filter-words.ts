import type { MessageInitShape } from '@bufbuild/protobuf';
import type { TimestampSchema } from '@bufbuild/protobuf/wkt';
import { jobStateLabel } from '../jobs/job-words.tsx';
import { formatInstant } from '../parts/format.ts';
import { runStateLabel } from '../runs/run-words.tsx';
import type { BulkFilter } from './bulk-clients.ts';

/** The conditions of a filter, a line for each: what a bulk deletion is ordered with. */
export function conditionsOf(matching: BulkFilter): readonly string[] {
  const { minCreateTime, maxCreateTime } = matching.filter;
  const states =
    matching.kind === 'run' ? matching.filter.states?.map(runStateLabel) : matching.filter.states?.map(jobStateLabel);
  const of =
    matching.kind === 'run' ? ['Workflow', matching.filter.workflow ?? ''] : ['Run', matching.filter.runId ?? ''];
  return [
    ['State', (states ?? []).join(', ')],
    of,
    ['Created from', instantOf(minCreateTime)],
    ['Created before', instantOf(maxCreateTime)],
  ].flatMap(([name, value]) => (value ? [`${name}: ${value}`] : []));
}

const instantOf = (time: MessageInitShape<typeof TimestampSchema> | undefined): string =>
  time ? formatInstant({ $typeName: 'google.protobuf.Timestamp', seconds: 0n, nanos: 0, ...time }) : '';
