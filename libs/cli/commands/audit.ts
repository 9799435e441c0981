import { type JsonObject, toJson } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { type Command, Option } from 'commander';
import { AuditEntrySchema } from '#gen/lethe/audit/v1/audit_pb.ts';
import type { ServiceAuditEntry } from '#libs/client/audit.ts';
import { SERVICE_NAMES, type ServiceName } from '#libs/client/services.ts';
import type { Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf } from '../output.ts';
import { instant, tenantId } from '../parse.ts';
import { toTable } from '../table.ts';

interface AuditOptions extends ListOptions {
  readonly service?: readonly ServiceName[];
  readonly of?: string;
  readonly actor?: string;
  readonly action?: string;
  readonly target?: string;
  readonly refused?: true;
  readonly since?: Timestamp;
  readonly until?: Timestamp;
}

const HEAD = ['TIME', 'SERVICE', 'ACTOR', 'ACTION', 'TARGET', 'OUTCOME', 'REASON'];

const rowOf = ({ service, entry }: ServiceAuditEntry) => {
  const { actor, subject, action, targetType, targetId, outcome, reason, counts } = entry;
  const refusals = counts?.['refusals'];
  return [
    instantOf(entry.createTime),
    service,
    actor === subject ? actor : `${actor} by ${subject}`,
    action,
    `${targetType} ${targetId}`,
    typeof refusals === 'number' ? `${outcome}, ${refusals} times` : outcome,
    reason,
  ];
};

/** An entry as JSON, its service beside its own fields. */
const entryJson = ({ service, entry }: ServiceAuditEntry) => ({
  service,
  ...(toJson(AuditEntrySchema, entry, { alwaysEmitImplicit: true }) as JsonObject),
});

/** `lethe audit`. */
export function addAuditCommand(program: Command, run: Run): void {
  addExamples(
    addLimit(
      program.command('audit').description('who did what, and who was refused; all services in one list, newest first'),
    )
      .addOption(new Option('--service <services...>', 'only of these services').choices([...SERVICE_NAMES]))
      .option('--of <tenant>', 'for platform: of this tenant; without it, what belongs to no tenant', tenantId)
      .option('--actor <actor>', 'only what this person did')
      .option('--action <action>', 'only this, such as delete')
      .option('--target <id>', 'only what was done to this run, job, plan or the like')
      .addOption(new Option('--refused', 'only refused calls').conflicts('action'))
      .option('--since <instant>', 'from then on', instant)
      .option('--until <instant>', 'before then', instant)
      .action(({ service, of, actor, action, target, refused, since, until, ...options }: AuditOptions) =>
        run(async (context) => {
          const query = defined({
            services: service,
            tenantId: of,
            actor,
            action: refused ? 'call' : action,
            targetId: target,
            afterTime: since,
            beforeTime: until,
          });
          const entries = context.lethe.audit.list(query);
          await printList(context, entries, options, (found) => toTable(HEAD, found.map(rowOf)), entryJson);
        }),
      ),
    'lethe --tenant acme audit --refused --since 2026-01-01T00:00:00Z',
    'lethe audit --of acme --service job --action cancel',
  );
}
