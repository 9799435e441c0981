import type { Command } from 'commander';
import type { UnplannedTenant } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import type { Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf } from '../output.ts';
import { makeTable } from '../table.ts';
import { tenantTable } from './plans.ts';

const unplannedTable = makeTable<UnplannedTenant>({
  TENANT: ({ tenantId }) => tenantId,
  HAS: ({ subjects }) => subjects.join(', '),
  SINCE: ({ firstSeenTime }) => instantOf(firstSeenTime),
});

/** `lethe tenants …`. */
export function addTenantCommands(program: Command, run: Run): void {
  const tenants = program.command('tenants').description('tenants with a plan, and tenants with data and without one');

  addExamples(
    addLimit(tenants.command('list').description('the plans in force by tenant'))
      .option('--plan <plan>', 'only tenants on this plan')
      .action(({ plan, ...options }: ListOptions & { plan?: string }) =>
        run(async (context) => {
          const filter = plan === undefined ? {} : { planName: plan.toUpperCase() };
          await printList(context, context.lethe.retention.tenants.list(filter), options, tenantTable);
        }),
      ),
    'lethe tenants list --plan PRO',
  );

  addExamples(
    addLimit(
      tenants
        .command('unplanned')
        .description('tenants that have data and neither a plan nor a policy: nothing of theirs is ever purged'),
    ).action((options: ListOptions) =>
      run(async (context) => {
        await printList(context, context.lethe.retention.tenants.unplanned(), options, unplannedTable);
      }),
    ),
    'lethe tenants unplanned',
  );
}
