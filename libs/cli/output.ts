import Table from 'cli-table3';

/** The exit codes of `lethe`. */
export const EXIT = { ok: 0, failed: 1, usage: 2, partial: 3 } as const;

/** A message as JSON: int64 as text, an instant as ISO 8601. */
export const toJson = (value: unknown): string => JSON.stringify(value, replacer, 2);

function replacer(key: string, value: unknown): unknown {
  if (key === '$typeName' || key === '$unknown') return undefined;
  if (typeof value === 'bigint') return value.toString();
  if (isTimestamp(value)) return instantOf(value);
  return value;
}

interface TimestampLike {
  readonly seconds: bigint;
  readonly nanos: number;
}

const isTimestamp = (value: unknown): value is TimestampLike =>
  typeof value === 'object' &&
  value !== null &&
  '$typeName' in value &&
  value.$typeName === 'google.protobuf.Timestamp';

/** An instant for people; empty for an absent one. */
export const instantOf = (value: TimestampLike | undefined): string =>
  value === undefined
    ? ''
    : Temporal.Instant.fromEpochNanoseconds(value.seconds * 1_000_000_000n + BigInt(value.nanos)).toString();

/** Rows as a table without lines. */
export function toTable(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const none = {
    top: '',
    'top-mid': '',
    'top-left': '',
    'top-right': '',
    bottom: '',
    'bottom-mid': '',
    'bottom-left': '',
  };
  const more = {
    'bottom-right': '',
    left: '',
    'left-mid': '',
    mid: '',
    'mid-mid': '',
    right: '',
    'right-mid': '',
    middle: '  ',
  };
  const table = new Table({
    head: [...head],
    chars: { ...none, ...more },
    style: { head: [], border: [], 'padding-left': 0 },
  });
  for (const row of rows) table.push([...row]);
  return table.toString();
}

/** The name of an enum's value, e.g. `COMPLETED`. */
export const nameOf = (values: Readonly<Record<string, string | number>>, value: number): string =>
  Object.entries(values).find(([, candidate]) => candidate === value)?.[0] ?? String(value);
