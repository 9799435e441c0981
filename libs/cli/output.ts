import { createRegistry, isMessage, type JsonValue, toJson as messageToJson } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { file_lethe_deletion_v1_bulk_deletion } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { file_lethe_deletion_v1_deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { file_lethe_incident_v1_incident } from '#gen/lethe/incident/v1/incident_pb.ts';
import { file_lethe_incident_v1_incident_service } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { file_lethe_job_v1_job } from '#gen/lethe/job/v1/job_pb.ts';
import { file_lethe_job_v1_job_service } from '#gen/lethe/job/v1/job_service_pb.ts';
import { file_lethe_retention_v1_retention } from '#gen/lethe/retention/v1/retention_pb.ts';
import { file_lethe_retention_v1_retention_service } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { file_lethe_run_v1_run } from '#gen/lethe/run/v1/run_pb.ts';
import { file_lethe_run_v1_run_service } from '#gen/lethe/run/v1/run_service_pb.ts';

/**
 * The exit codes of `lethe`. `usage` promises that nothing was sent, `partial` that something was done, `held` that
 * nothing failed and what is left waits for an approval, `interrupted` that Ctrl-C ended the waiting.
 */
export const EXIT = { ok: 0, failed: 1, usage: 2, partial: 3, held: 4, interrupted: 130 } as const;

const MESSAGES = createRegistry(
  file_lethe_deletion_v1_bulk_deletion,
  file_lethe_deletion_v1_deletion,
  file_lethe_incident_v1_incident,
  file_lethe_incident_v1_incident_service,
  file_lethe_job_v1_job,
  file_lethe_job_v1_job_service,
  file_lethe_retention_v1_retention,
  file_lethe_retention_v1_retention_service,
  file_lethe_run_v1_run,
  file_lethe_run_v1_run_service,
);

/** A result as one line of JSON; messages in protobuf's JSON: enums by name, int64 as text, instants as ISO 8601. */
export const toJson = (value: unknown): string => JSON.stringify(plain(value) ?? null);

function plain(value: unknown): JsonValue | undefined {
  if (isMessage(value)) {
    const schema = MESSAGES.getMessage(value.$typeName);
    if (!schema) throw new Error(`${value.$typeName} is no message that the command line prints`);
    return messageToJson(schema, value, { alwaysEmitImplicit: true });
  }
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return value.map((item) => plain(item) ?? null);
  if (typeof value !== 'object' || value === null) return value as JsonValue | undefined;
  const entries = Object.entries(value).map(([key, entry]) => [key, plain(entry)] as const);
  return Object.fromEntries(entries.filter(([, entry]) => entry !== undefined)) as JsonValue;
}

/** An instant for people, to the second; empty for an absent one. */
export const instantOf = (value: Timestamp | undefined): string =>
  value === undefined ? '' : toSecond(new Date(Number(value.seconds) * 1_000));

/** A date as an instant to the second, e.g. 2026-11-21T08:00:00Z. */
export const toSecond = (date: Date): string => date.toISOString().replace(/\.\d+Z$/, 'Z');

/** The name of an enum's value, e.g. `COMPLETED`. */
export const nameOf = (values: Readonly<Record<string, string | number>>, value: number | undefined): string =>
  Object.entries(values).find(([, candidate]) => candidate === (value ?? 0))?.[0] ?? String(value);
