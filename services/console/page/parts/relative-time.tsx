import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { VisuallyHidden } from '@mantine/core';
import { formatInstant, formatRelative, toMs } from './format.ts';
import { useNow } from './use-now.ts';

interface RelativeTimeProps {
  /** Absent: a dash. */
  readonly time: Timestamp | undefined;
}

/** `5 minutes ago`, kept true while it is shown, with the exact instant as its title and for screen readers. */
export function RelativeTime({ time }: RelativeTimeProps) {
  const now = useNow();
  if (!time) return '–';
  const exact = formatInstant(time);
  return (
    <time dateTime={new Date(toMs(time)).toISOString()} title={exact}>
      {formatRelative(toMs(time), now)}
      <VisuallyHidden>{` (${exact})`}</VisuallyHidden>
    </time>
  );
}
