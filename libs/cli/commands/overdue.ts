import { type JsonObject, toJson } from '@bufbuild/protobuf';
import { type Command, Option } from 'commander';
import { OldestWorkSchema, WorkKind } from '#gen/lethe/status/v1/status_service_pb.ts';
import type { ServiceOldestWork } from '#libs/client/parked.ts';
import { SERVICE_NAMES, type ServiceName } from '#libs/client/services.ts';
import type { Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { nameOf } from '../output.ts';
import { tenantId } from '../parse.ts';
import { makeTable, type Text } from '../table.ts';

interface OverdueOptions {
  readonly service?: readonly ServiceName[];
  readonly of?: string;
}

/** An age in its two largest units, such as `3 h 20 min`. */
function ageText(seconds: number): string {
  const [days, hours, minutes] = [seconds / 86_400, (seconds / 3_600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min`;
}

const tableOf = makeTable<ServiceOldestWork>({
  OLDEST: ({ service, work }) => `${service} ${nameOf(WorkKind, work.kind)}`,
  AGE: ({ ageSeconds }) => ageText(ageSeconds),
  TENANT: ({ work }) => work.tenantId,
  ID: ({ work }) => work.id,
});

/** The command that shows it. */
export function commandOf({ service, work: { kind, tenantId: of, id } }: ServiceOldestWork): string {
  const commands: Readonly<Record<WorkKind, string>> = {
    [WorkKind.UNSPECIFIED]: '',
    [WorkKind.DELETION]: `lethe --tenant ${of} deletions get ${id} --kind ${service}`,
    [WorkKind.BULK_DELETION]: `lethe --tenant ${of} bulk get ${id}`,
    [WorkKind.RUN]: `lethe --tenant ${of} runs get ${id}`,
    [WorkKind.COMPENSATION]: `lethe --tenant ${of} runs get ${id}`,
    [WorkKind.UPLOAD]: `lethe --tenant ${of} jobs get ${id}`,
    [WorkKind.PURGE]: `lethe purges get ${id}`,
  };
  return commands[kind] ?? '';
}

const overdueText = (found: readonly ServiceOldestWork[]): Text =>
  found.length === 0 ? 'All work is done.' : [tableOf(found), '', ...found.map(commandOf)];

const overdueJson = (oldest: ServiceOldestWork) => ({
  service: oldest.service,
  ...(toJson(OldestWorkSchema, oldest.work, { alwaysEmitImplicit: true }) as JsonObject),
  ageSeconds: Math.round(oldest.ageSeconds),
  command: commandOf(oldest),
});

/** `lethe overdue`. */
export function addOverdueCommand(program: Command, run: Run): void {
  addExamples(
    program
      .command('overdue')
      .description('the oldest work of each kind that is not done, in all services, with the command that shows it')
      .addOption(new Option('--service <services...>', 'only in these services').choices([...SERVICE_NAMES]))
      .option('--of <tenant>', 'for platform: of this tenant; without it, of all tenants', tenantId)
      .action(({ service, of }: OverdueOptions) =>
        run(async ({ lethe, print }) => {
          const query = defined({ services: service, tenantId: of });
          const found = await lethe.parked.oldest(query);
          print(found.map(overdueJson), () => overdueText(found));
        }),
      ),
    'lethe overdue',
    'lethe --tenant acme --json overdue',
  );
}
