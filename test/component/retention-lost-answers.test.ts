import anyTest, { type TestFn } from 'ava';
import { WindowKind } from '#gen/lethe/retention/v1/retention_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import type { Connection } from '#libs/grpc/client.ts';
import { loseAnswer } from '#test/support/lose-answer.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['retention'] });
});
test.after.always((t) => t.context.stack?.dispose());

const tenantId = 'loses';
const retentionOf = (connection: Connection) => connection.client(RetentionService);

interface Lossy {
  readonly title: string;
  /** Rows of the audit that the call writes once. */
  readonly action: string;
  /** Sets what the call changes, and gives the call with the etag of that. */
  prepare(stack: TestStack): Promise<(connection: Connection) => Promise<unknown>>;
}

const LOSSY: readonly Lossy[] = [
  {
    title: 'UpsertExecutionPolicy',
    action: 'set-execution-policy',
    async prepare(stack) {
      const etag = await policyEtag(stack);
      return (connection) => retentionOf(connection).upsertExecutionPolicy({ tenantId, retentionDays: 20, etag });
    },
  },
  {
    title: 'DeleteExecutionPolicy',
    action: 'delete-execution-policy',
    async prepare(stack) {
      const etag = await policyEtag(stack);
      return (connection) => retentionOf(connection).deleteExecutionPolicy({ tenantId, etag });
    },
  },
  {
    title: 'SetTenantPlan',
    action: 'set-plan',
    async prepare(stack) {
      const { retention } = stack.clients({ role: 'platform' });
      const { tenantPlan } = await retention.setTenantPlan({ tenantId, planName: 'PRO', reason: 'sold' });
      const change = { tenantId, planName: 'FREE', reason: 'they pay less', etag: tenantPlan?.etag ?? '' };
      return (connection) => retentionOf(connection).setTenantPlan(change);
    },
  },
  {
    title: 'UpdatePlan',
    action: 'update-plan',
    async prepare(stack) {
      const { plan } = await stack.clients({ role: 'platform' }).retention.getPlan({ name: 'AGENCY' });
      const windows = [{ subject: 'drift_checks', kind: WindowKind.DAYS, retentionDays: 77 }];
      const change = { name: 'AGENCY', reason: 'sold', etag: plan?.etag ?? '', windows };
      return (connection) => retentionOf(connection).updatePlan(change);
    },
  },
];

async function policyEtag(stack: TestStack): Promise<string> {
  const { retention } = stack.clients({ tenantId, role: 'admin' });
  return (await retention.upsertExecutionPolicy({ retentionDays: 30 })).executionPolicy?.etag ?? '';
}

for (const { title, action, prepare } of LOSSY) {
  test.serial(
    `a ${title} with the etag just read whose answer was lost, and that the transport repeats, is done once and no refusal`,
    async (t) => {
      const { stack } = t.context;
      const times = async () => {
        const [row] = await queryOnce<{ count: number }>(
          stack.superuserUrl('retention'),
          `select count(*)::int as count
           from (select action from audit_entries union all select action from installation_audit) a where action = $1`,
          [action],
        );
        return row?.count ?? 0;
      };
      const call = await prepare(stack);
      const before = await times();
      const lost = loseAnswer({
        address: stack.addresses.retention,
        token: () => stack.token({ role: 'platform' }),
        open: (connection) => retentionOf(connection).listPlans({}),
        call,
        isDone: async () => (await times()) > before,
      });
      await t.notThrowsAsync(lost);
      t.is(await times(), before + 1);
    },
  );
}
