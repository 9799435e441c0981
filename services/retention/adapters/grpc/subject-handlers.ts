import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { CatalogueSubjectSchema, SubjectState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { type RetentionService, UnplannedTenantSchema } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseFields, parseOptionalEnum, parseRequiredReason, parseText } from '#libs/grpc/parse.ts';
import { toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { decodePageToken, KEY, type PageScope, pageOf, parsePageSize } from '#libs/kernel/page.ts';
import {
  type CatalogueSubject,
  problemOf,
  SUBJECT_STATES,
  type SubjectState as SubjectStateName,
  stateOf,
} from '../../domain/catalogue.ts';
import type { KeepCatalogue } from '../../use-cases/keep-catalogue.ts';
import type { TenantDirectory } from '../../use-cases/purge-ports.ts';

const STATE_OF: ReadonlyMap<number, SubjectStateName> = new Map(
  SUBJECT_STATES.map((state) => [SubjectState[state], state]),
);

/** The catalogue of subjects, and the tenants that have data and no plan. */
export const subjectHandlers = (
  catalogue: KeepCatalogue,
  directory: Pick<TenantDirectory, 'listUnplanned'>,
): Partial<ServiceImpl<typeof RetentionService>> => ({
  async listSubjects(request, context) {
    const { limit, state } = parseFields({
      limit: () => parsePageSize(request.pageSize, request.pageToken),
      state: () => parseOptionalEnum('state', request.state, STATE_OF),
    });
    const scope: PageScope = { rpc: 'ListSubjects', tenantId: callerOf(context).tenantId ?? '', filter: { state } };
    const [after = ''] = decodePageToken(scope, request.pageToken, [KEY.text]) ?? [];
    const rest = (await catalogue.list(state)).filter(({ name }) => name > after);
    const keyOf = ({ name }: CatalogueSubject) => [name];
    const page = pageOf(rest, limit, (subject) => subject, keyOf);
    const { messages, nextPageToken } = fitPage(scope, CatalogueSubjectSchema, page, toSubjectMessage, keyOf);
    return { subjects: messages, nextPageToken };
  },

  async confirmSubject(request, context) {
    return { subject: toSubjectMessage(await catalogue.confirm(toCommand(request, context))) };
  },

  async retireSubject(request, context) {
    return { subject: toSubjectMessage(await catalogue.retire(toCommand(request, context))) };
  },

  async listUnplannedTenants(request, context) {
    const { limit } = parseFields({ limit: () => parsePageSize(request.pageSize, request.pageToken) });
    const scope: PageScope = { rpc: 'ListUnplannedTenants', tenantId: callerOf(context).tenantId ?? '', filter: {} };
    const page = await directory.listUnplanned({ limit, after: decodePageToken(scope, request.pageToken, [KEY.text]) });
    const { messages: tenants, nextPageToken } = fitPage(
      scope,
      UnplannedTenantSchema,
      page,
      ({ tenantId, subjects, firstSeenAt }) => ({
        tenantId,
        subjects: [...subjects],
        firstSeenTime: toTimestamp(firstSeenAt),
      }),
      ({ tenantId }) => [tenantId],
    );
    return { tenants, nextPageToken };
  },
});

function toCommand(
  request: { readonly name: string; readonly reason: string },
  context: Parameters<typeof callerOf>[0],
) {
  const command = parseFields({
    name: () => parseText('name', request.name, { min: 1, max: 63 }),
    reason: () => parseRequiredReason(request.reason),
  });
  const { actor, subject } = callerOf(context);
  return { ...command, actor, subject };
}

function toSubjectMessage(subject: CatalogueSubject): MessageInitShape<typeof CatalogueSubjectSchema> {
  const { retirement } = subject;
  const problem = retirement ? undefined : problemOf(subject);
  return {
    name: subject.name,
    owner: subject.owner,
    dataId: subject.dataId ?? '',
    resourceType: subject.resourceType,
    ageOf: subject.ageOf,
    hasFloor: subject.hasFloor,
    state: SubjectState[stateOf(subject)],
    problem: problem ? `${problem.reason}: ${problem.message}` : '',
    ...optional('listTime', toOptionalTimestamp(subject.listedAt)),
    observeNightsLeft: subject.observeNightsLeft,
    ...(retirement
      ? { retireTime: toTimestamp(retirement.at), retiredBy: retirement.by, retireReason: retirement.reason }
      : {}),
  };
}
