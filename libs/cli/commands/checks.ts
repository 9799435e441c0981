import type { JsonObject } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type DriftCheck, DriftFlag, DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import type { Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue, instant, jsonObject } from '../parse.ts';
import { makeTable, type Text, toTable } from '../table.ts';
import { flagsText } from './environments.ts';

interface CheckListOptions extends ListOptions {
  readonly environment?: string;
  readonly status?: DriftStatus;
}

interface Flagged {
  readonly workflow: string;
  readonly flag: DriftFlag;
}

interface RecordOptions {
  readonly status: DriftStatus;
  readonly at?: Timestamp;
  readonly summary?: JsonObject;
  readonly workflow?: readonly Flagged[];
}

const STATUSES = `one of ${enumNames(DriftStatus).join(', ')}`;

const tableOf = makeTable<DriftCheck>({
  CHECK: ({ id }) => id,
  FOUND: ({ status }) => nameOf(DriftStatus, status),
  WORKFLOWS: flagsText,
  AT: ({ checkTime }) => instantOf(checkTime),
  ENVIRONMENT: ({ environmentId }) => environmentId,
});

function checkText(check: DriftCheck): Text {
  const flagged = check.workflows.map(({ workflow, flag }) => [workflow, nameOf(DriftFlag, flag)]);
  return [tableOf([check]), ...(flagged.length > 0 ? ['', toTable(['WORKFLOW', 'HOW IT DIFFERS'], flagged)] : [])];
}

/** Reads `NAME=MODIFIED`; collects them. */
function flaggedWorkflow(text: string, before: readonly Flagged[] = []): readonly Flagged[] {
  const at = text.lastIndexOf('=');
  if (at < 1) throw new InvalidArgumentError('It must be NAME=FLAG.');
  return [...before, { workflow: text.slice(0, at), flag: enumValue(DriftFlag)(text.slice(at + 1)) }];
}

/** `lethe checks …`: drift checks. */
export function addCheckCommands(program: Command, run: Run): void {
  const checks = program.command('checks').description('drift checks: comparisons of environments with their source');

  addExamples(
    addLimit(checks.command('list').description('newest first'))
      .option('--environment <id>', 'only of this environment')
      .option('--status <status>', STATUSES, enumValue(DriftStatus))
      .action(({ environment, status, ...options }: CheckListOptions) =>
        run(async (context) => {
          const filter = defined({ environmentId: environment, status });
          await printList(context, context.lethe.environments.driftChecks(filter), options, tableOf);
        }),
      ),
    'lethe --tenant acme checks list --status DRIFT --limit 10',
  );

  addExamples(
    checks
      .command('get <check>')
      .description('one drift check and the workflows that it flagged')
      .action((driftCheckId: string) =>
        run(async ({ lethe, print }) => {
          const check = await lethe.environments.getDriftCheck(driftCheckId);
          print(check, () => checkText(check));
        }),
      ),
    'lethe --tenant acme checks get 018f6b1e-7c1a-7000-8000-000000000001',
  );

  addExamples(
    checks
      .command('record <environment>')
      .description('record what a check found, and with it the badge of the environment')
      .addOption(new Option('--status <status>', STATUSES).argParser(enumValue(DriftStatus)).makeOptionMandatory())
      .option('--at <instant>', 'when it looked; now by default', instant)
      .option('--summary <json>', 'what else it found', jsonObject)
      .option(
        '--workflow <name=flag...>',
        `a workflow that differs; the flag is one of ${enumNames(DriftFlag).join(', ')}`,
        flaggedWorkflow,
      )
      .action((environmentId: string, { status, at, summary, workflow = [] }: RecordOptions) =>
        run(async ({ lethe, print }) => {
          const found = { status, ...defined({ checkTime: at, summary, workflows: workflow }) };
          const { driftCheck } = await lethe.environments.recordDriftCheck(environmentId, found);
          print(driftCheck, () => checkText(driftCheck));
        }),
      ),
    'lethe --tenant acme checks record 018f6b1e-7c1a-7000-8000-000000000001 --status IN_SYNC',
    'lethe --tenant acme checks record 018f6b1e-7c1a-7000-8000-000000000001 --status DRIFT --workflow sync=MODIFIED',
  );
}
