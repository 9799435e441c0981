import type { Command } from 'commander';
import { DriftStatus, type Environment, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import type { GetDriftDashboardResponse } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import type { Run } from '../context.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue } from '../parse.ts';
import { makeTable, type Text, toTable } from '../table.ts';

/** How many workflows differ, by how they do. */
export const flagsText = ({
  modifiedCount,
  notInGitCount,
  unknownCount,
}: Pick<Environment, 'modifiedCount' | 'notInGitCount' | 'unknownCount'>): string =>
  [
    [modifiedCount, 'modified'],
    [notInGitCount, 'not in git'],
    [unknownCount, 'unknown'],
  ]
    .filter(([count]) => count !== 0)
    .map(([count, what]) => `${count} ${what}`)
    .join(', ');

const tableOf = makeTable<Environment>({
  ENVIRONMENT: ({ id }) => id,
  NAME: ({ displayName }) => displayName,
  DRIFT: ({ driftStatus }) => nameOf(DriftStatus, driftStatus),
  WORKFLOWS: flagsText,
  CHECKED: ({ lastCheckTime }) => instantOf(lastCheckTime) || 'never',
});

/** `lethe environments …`. */
export function addEnvironmentCommands(program: Command, run: Run): void {
  const environments = program.command('environments').description('environments and how far they have drifted');

  addExamples(
    environments
      .command('create <name>')
      .description('create an environment; print its id')
      .action((displayName: string) =>
        run(async ({ lethe, print }) => {
          const created = await lethe.environments.create({ displayName });
          print(created, () => created.id);
        }),
      ),
    'lethe --tenant acme environments create production',
  );

  addExamples(
    addLimit(environments.command('list').description('by name'))
      .option('--drift <status>', `one of ${enumNames(DriftStatus).join(', ')}`, enumValue(DriftStatus))
      .action(({ drift, ...options }: ListOptions & { drift?: DriftStatus }) =>
        run(async (context) => {
          const filter = drift ? { driftStatus: drift } : {};
          await printList(context, context.lethe.environments.list(filter), options, tableOf);
        }),
      ),
    'lethe --tenant acme environments list',
    'lethe --tenant acme environments list --drift DRIFT',
  );

  addExamples(
    environments
      .command('get <environment>')
      .description('one environment and its badge')
      .action((environmentId: string) =>
        run(async ({ lethe, print }) => {
          const environment = await lethe.environments.get(environmentId);
          print(environment, () => tableOf([environment]));
        }),
      ),
    'lethe --tenant acme environments get 018f6b1e-7c1a-7000-8000-000000000001',
  );

  addExamples(
    environments
      .command('dashboard')
      .description("the tenant's figures on drift and incidents; a purge does not change them")
      .action(() =>
        run(async ({ lethe, print }) => {
          const dashboard = await lethe.incidents.dashboard();
          print(dashboard, () => dashboardText(dashboard));
        }),
      ),
    'lethe --tenant acme environments dashboard',
  );
}

function dashboardText(dashboard: GetDriftDashboardResponse): Text {
  const { environments, incidents, openIncidentCount, meanTimeToClose, lastCheckTime } = dashboard;
  return [
    toTable(
      ['ENVIRONMENTS', 'COUNT'],
      environments.map(({ status, count }) => [nameOf(DriftStatus, status), String(count)]),
    ),
    '',
    toTable(
      ['INCIDENTS', 'COUNT'],
      incidents.map(({ state, count }) => [nameOf(IncidentState, state), String(count)]),
    ),
    '',
    `${openIncidentCount} incidents are open`,
    ...(meanTimeToClose ? [`incidents took ${durationText(Number(meanTimeToClose.seconds))} to close on average`] : []),
    `last checked: ${instantOf(lastCheckTime) || 'never'}`,
  ];
}

/** A length of time in its two largest units. */
function durationText(seconds: number): string {
  const days = Math.floor(seconds / 86_400);
  const hours = Math.floor((seconds % 86_400) / 3_600);
  const minutes = Math.floor((seconds % 3_600) / 60);
  if (days > 0) return `${days} d ${hours} h`;
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
}
