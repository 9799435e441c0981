import type { MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import { ExecutionSchema, ExecutionState as ExecutionStateMessage } from '#gen/lethe/run/v1/run_pb.ts';
import type { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseFields, parseOptionalEnum, parseOptionalText, parseText } from '#libs/grpc/parse.ts';
import { parseTimestamp, toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { DomainError, type FieldViolation, fieldInvalid, fieldsInvalid } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import {
  EXECUTION_STATES,
  type Execution,
  type ExecutionState,
  isCountable,
  timeInId,
} from '../../domain/execution.ts';
import type { ReadExecutions } from '../../use-cases/read-executions.ts';
import type { RecordExecutions } from '../../use-cases/record-executions.ts';

/** What RunService does with executions. */
export interface ExecutionUseCases {
  readonly recordExecutions: RecordExecutions;
  readonly readExecutions: ReadExecutions;
}

type ExecutionMessage = MessageShape<typeof ExecutionSchema>;

const MAX_EXECUTIONS = 1_000;
const MAX_WORKFLOW = 100;
const MAX_STATUS = 50;
// What a client reads of headers is bounded, and the violations are sent in one.
const MAX_VIOLATIONS = 100;

const STATE_OF: ReadonlyMap<number, ExecutionState> = new Map(
  EXECUTION_STATES.map((state) => [ExecutionStateMessage[state], state]),
);

/** The executions' part of RunService over gRPC. */
export const executionService = ({
  recordExecutions,
  readExecutions,
}: ExecutionUseCases): Partial<ServiceImpl<typeof RunService>> => ({
  async recordExecutions(request, context) {
    const executions = parseExecutions(request.executions);
    const { created, updated, expiredIds } = await recordExecutions(tenantOf(callerOf(context)), executions);
    return { createdCount: created, updatedCount: updated, expiredIds: [...expiredIds] };
  },

  async listExecutions(request, context) {
    const tenantId = tenantOf(callerOf(context));
    const { limit, ...query } = parseFields({
      limit: () => parsePageSize(request.pageSize, request.pageToken),
      workflow: () => parseOptionalText('workflow', request.workflow, MAX_WORKFLOW),
      status: () => parseOptionalText('status', request.status, MAX_STATUS),
      state: () => parseOptionalEnum('state', request.state, STATE_OF),
      minAge: () => parseMicroseconds('after_time', request.afterTime),
      maxAge: () => parseMicroseconds('before_time', request.beforeTime),
    });
    const filter = { ...query, minAge: query.minAge?.toString(), maxAge: query.maxAge?.toString() };
    const scope: PageScope = { rpc: 'ListExecutions', tenantId, filter };
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id, KEY.instant]);
    const page = await readExecutions.list(tenantId, { ...query, limit, after });
    const keyOf = ({ id, createdAt, startedAt = createdAt }: Execution) => [String(startedAt), id, String(createdAt)];
    const { messages, nextPageToken } = fitPage(scope, ExecutionSchema, page, toExecutionMessage, keyOf);
    return { executions: messages, nextPageToken };
  },

  async countExecutions(request, context) {
    const query = parseFields({
      firstDay: () => parseOptionalDay('first_day', request.firstDay),
      lastDay: () => parseOptionalDay('last_day', request.lastDay),
      workflow: () => parseOptionalText('workflow', request.workflow, MAX_WORKFLOW),
    });
    const counts = await readExecutions.count(tenantOf(callerOf(context)), query);
    return {
      counts: counts.map(({ day, state, count }) => ({
        day: day.toString(),
        state: ExecutionStateMessage[state],
        count: BigInt(count),
      })),
    };
  },
});

function parseExecutions(messages: readonly ExecutionMessage[]): readonly Execution[] {
  if (messages.length === 0 || messages.length > MAX_EXECUTIONS)
    throw fieldInvalid('executions', `must be 1 to ${MAX_EXECUTIONS}`);
  const violations: FieldViolation[] = [];
  const seen = new Map<string, number>();
  const executions = messages.map((message, at) => {
    const read = <T>(parse: () => T): T | undefined => {
      try {
        return parse();
      } catch (error) {
        if (!(error instanceof DomainError) || error.reason !== 'FIELD_INVALID') throw error;
        for (const { field, description } of error.violations)
          violations.push({ field: `executions[${at}].${field}`, description });
        return undefined;
      }
    };
    const id = read(() => parseId('id', message.id));
    const createdAt = read(() => {
      const given = parseMicroseconds('create_time', message.createTime) ?? (id && timeInId(id));
      // Of a wrong id nobody can say whether it had a time.
      if (!given && id) throw fieldInvalid('create_time', 'is required where the id is no UUIDv7');
      return given;
    });
    const state = read(() => parseOptionalEnum('state', message.state, STATE_OF)) ?? 'ENDED';
    const execution = {
      id: id ?? '',
      workflow: read(() => parseText('workflow', message.workflow, { min: 1, max: MAX_WORKFLOW })) ?? '',
      status: read(() => parseText('status', message.status, { max: MAX_STATUS })) ?? '',
      state,
      startedAt: read(() => {
        if (message.startTime && state === 'QUEUED') throw fieldInvalid('start_time', 'does not go with QUEUED');
        return parseMicroseconds('start_time', message.startTime);
      }),
      finishedAt: read(() => {
        if (message.finishTime && state !== 'ENDED') throw fieldInvalid('finish_time', 'goes with ENDED only');
        return parseMicroseconds('finish_time', message.finishTime);
      }),
      createdAt: createdAt as Temporal.Instant,
    };
    const key = `${id} ${createdAt}`;
    const first = seen.get(key);
    if (id && createdAt && first !== undefined)
      violations.push({
        field: `executions[${at}].id`,
        description: `repeats the id and create_time of executions[${first}]`,
      });
    seen.set(key, at);
    return execution;
  });
  if (violations.length > MAX_VIOLATIONS) {
    const more = violations.length - MAX_VIOLATIONS;
    violations.splice(MAX_VIOLATIONS, more, { field: 'executions', description: `has ${more} more wrong fields` });
  }
  if (violations.length > 0) throw fieldsInvalid(violations);
  return executions;
}

/** As parseTimestamp, without what is smaller than a microsecond. */
const parseMicroseconds = (field: string, timestamp: Timestamp | undefined): Temporal.Instant | undefined =>
  parseTimestamp(field, timestamp && { ...timestamp, nanos: timestamp.nanos - (timestamp.nanos % 1_000) });

function parseOptionalDay(field: string, text: string): Temporal.PlainDate | undefined {
  if (text === '') return undefined;
  try {
    const day = /^\d{4}-\d{2}-\d{2}$/.test(text) ? Temporal.PlainDate.from(text) : undefined;
    if (day && isCountable(day)) return day;
  } catch {
    // Told below.
  }
  throw fieldInvalid(field, 'must be a day from 0001-01-01 to 9999-12-30, such as 2026-11-21');
}

const toExecutionMessage = (execution: Execution): MessageInitShape<typeof ExecutionSchema> => ({
  id: execution.id,
  workflow: execution.workflow,
  status: execution.status,
  ...optional('startTime', toOptionalTimestamp(execution.startedAt)),
  ...optional('finishTime', toOptionalTimestamp(execution.finishedAt)),
  createTime: toTimestamp(execution.createdAt),
  state: ExecutionStateMessage[execution.state],
});
