import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { PurgeResponse } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { NIGHT_TOKEN, type OwnerAccess, type OwnerToken } from './owner-clients.ts';

/** One call of a purge by age. */
export interface AgePurgeCall {
  readonly operationId: string;
  readonly retentionDays: number;
  readonly limit?: number;
  readonly timeBudget?: { readonly seconds: bigint; readonly nanos: number };
}

/** Purges one subject of one tenant as RetentionService does. */
export interface AgePurger {
  /** One call of Purge. */
  purge(call: AgePurgeCall): Promise<PurgeResponse>;
  /** Calls until it is COMPLETE; the answers in order. */
  purgeWhole(call: AgePurgeCall): Promise<PurgeResponse[]>;
  /** What a purge by the window, or up to this cutoff, would take, and of how many rows in all. */
  count(retentionDays: number, cutoffTime?: Timestamp): Promise<{ expired: number; population: number }>;
}

/** Makes the purger of one subject of one tenant; `more` is what its tokens say differently from RetentionService's. */
export function agePurgerOf(
  owner: OwnerAccess,
  tenantId: string,
  subject: string,
  more: Partial<OwnerToken> = {},
): AgePurger {
  const token = { ...NIGHT_TOKEN, ...more, tenantId, subject };
  const ruleOf = (retentionDays: number) => {
    const days = Math.min(36_500, Math.max(1, retentionDays));
    const latest = Temporal.Now.instant()
      .subtract({ hours: 24 * days })
      .add({ seconds: 30 });
    return { subject, retentionDays, latestCutoffTime: toTimestamp(latest) };
  };
  const purge = ({ operationId, retentionDays, ...limits }: AgePurgeCall) =>
    owner.client({ ...token, operationId }).purge({ operationId, rule: ruleOf(retentionDays), ...limits });
  return {
    purge,
    async purgeWhole(call) {
      const answers = [await purge(call)];
      while (answers.at(-1)?.progress !== Progress.COMPLETE) answers.push(await purge(call));
      return answers;
    },
    async count(retentionDays, cutoffTime) {
      const rule = { ...ruleOf(retentionDays), ...(cutoffTime ? { cutoffTime } : {}) };
      const { expiredCount, remainingCount } = await owner
        .client({ ...token, scope: 'owner:count' })
        .count({ rule, upTo: 1_000_000n, timeBudget: { seconds: 60n, nanos: 0 } });
      return { expired: Number(expiredCount), population: Number(expiredCount + remainingCount) };
    },
  };
}
