import { type JsonObject, toJson } from '@bufbuild/protobuf';
import { type Command, Option } from 'commander';
import { ParkedWorkKind, ParkedWorkSchema } from '#gen/lethe/status/v1/status_service_pb.ts';
import type { ServiceParkedWork } from '#libs/client/parked.ts';
import { SERVICE_NAMES, type ServiceName } from '#libs/client/services.ts';
import type { Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf, nameOf } from '../output.ts';
import { tenantId } from '../parse.ts';
import { makeTable, type Text, toLine } from '../table.ts';

interface ParkedOptions extends ListOptions {
  readonly service?: readonly ServiceName[];
  readonly of?: string;
}

const tableOf = makeTable<ServiceParkedWork>({
  TENANT: ({ work }) => work.tenantId,
  WHAT: ({ service, work }) => `${service} ${nameOf(ParkedWorkKind, work.kind)}`,
  ID: ({ work }) => work.id,
  SINCE: ({ work }) => instantOf(work.parkTime),
  WHY: ({ work }) => work.reason,
});

/** The command that sets it going again; `…` stands for a reason, which is somebody's own. */
export function commandOf({ service, work }: ServiceParkedWork): string {
  const { tenantId: of, id, targetId } = work;
  const commands: Readonly<Record<ParkedWorkKind, string>> = {
    [ParkedWorkKind.UNSPECIFIED]: '',
    [ParkedWorkKind.DELETION]: `lethe --tenant ${of} deletions redrive ${id} --kind ${service} --reason '…'`,
    [ParkedWorkKind.COMPENSATION]: `lethe --tenant ${of} runs retry ${id} --reason '…'`,
    [ParkedWorkKind.HELD_SUBJECT]: `lethe purges approve ${id} --of ${of} --subjects ${targetId} --reason '…'`,
    [ParkedWorkKind.HELD_PURGE]: `lethe purges approve ${id} --reason '…'`,
  };
  return toLine(commands[work.kind] ?? '');
}

/** What is parked, and below it, for each in the same order, the command that sets it going again. */
const parkedText = (found: readonly ServiceParkedWork[]): Text =>
  found.length === 0 ? 'Nothing waits for a person.' : [tableOf(found), '', ...found.map(commandOf)];

/** Parked work as JSON: its service and its command beside its own fields. */
const parkedJson = (parked: ServiceParkedWork) => ({
  service: parked.service,
  ...(toJson(ParkedWorkSchema, parked.work, { alwaysEmitImplicit: true }) as JsonObject),
  command: commandOf(parked),
});

/** `lethe parked`. */
export function addParkedCommand(program: Command, run: Run): void {
  addExamples(
    addLimit(
      program
        .command('parked')
        .description('what was given up or is held until a person sets it going, in all services, with the command'),
    )
      .addOption(new Option('--service <services...>', 'only in these services').choices([...SERVICE_NAMES]))
      .option('--of <tenant>', 'for platform: of this tenant; without it, of all tenants', tenantId)
      .action(({ service, of, ...options }: ParkedOptions) =>
        run(async (context) => {
          const query = defined({ services: service, tenantId: of });
          await printList(context, context.lethe.parked.list(query), options, parkedText, parkedJson);
        }),
      ),
    'lethe parked',
    'lethe parked --of acme --service job',
    'lethe --tenant acme --json parked',
  );
}
