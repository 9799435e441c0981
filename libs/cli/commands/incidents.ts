import type { JsonObject } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import {
  type Approval,
  CloseCause,
  type Incident,
  IncidentState,
  PayloadState,
} from '#gen/lethe/incident/v1/incident_pb.ts';
import type { Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue, jsonObject } from '../parse.ts';
import { makeTable, type Text, toLine, toTable } from '../table.ts';
import { approvalTable } from './approvals.ts';

interface IncidentListOptions extends ListOptions {
  readonly state?: IncidentState;
  readonly environment?: string;
  readonly run?: string;
  readonly showDeleted: boolean;
}

interface OpenOptions {
  readonly environment: string;
  readonly title: string;
  readonly check: string;
  readonly details?: JsonObject;
  readonly run: string;
  readonly step: string;
}

const STATES = `one of ${enumNames(IncidentState).join(', ')}`;

const tableOf = makeTable<Incident>({
  INCIDENT: ({ id }) => id,
  STATE: ({ state }) => nameOf(IncidentState, state),
  TITLE: ({ title }) => title,
  DETAILS: ({ payloadState }) => nameOf(PayloadState, payloadState),
  OPENED: ({ createTime }) => instantOf(createTime),
  CLOSED: ({ closeTime }) => instantOf(closeTime),
});

/** One incident whole: its links, its way, its details or the sentence in their place, its approvals. */
function incidentText(incident: Incident, approvals: readonly Approval[]): Text {
  const { environmentId, driftCheckId, runId, step, payloadNotice, driftSummary: details } = incident;
  const links = [
    ['environment', environmentId],
    ['drift check', driftCheckId],
    ['run', runId && step ? `${runId}, step ${step}` : runId],
    ['closed as', incident.closeCause === CloseCause.UNSPECIFIED ? '' : nameOf(CloseCause, incident.closeCause)],
    ['may go to', incident.nextStates.map((state) => nameOf(IncidentState, state)).join(', ')],
    ['hidden since', instantOf(incident.deleteTime)],
  ].flatMap(([what, value]) => (value ? [`${what}: ${value}`] : []));
  const timeline = incident.timeline.map(({ state, actor, note, transitionTime }) => [
    instantOf(transitionTime),
    nameOf(IncidentState, state),
    actor,
    note,
  ]);
  const notices = [payloadNotice, incident.approvalsNotice].filter((notice) => notice !== '');
  return [
    tableOf([incident]),
    '',
    ...links,
    '',
    toTable(['WHEN', 'BECAME', 'BY', 'NOTE'], timeline),
    ...(details ? ['', 'details:', toLine(JSON.stringify(details))] : []),
    ...(notices.length > 0 ? ['', ...notices] : []),
    ...(approvals.length > 0 ? ['', approvalTable(approvals)] : []),
  ];
}

/** `lethe incidents …`. */
export function addIncidentCommands(program: Command, run: Run): void {
  const incidents = program.command('incidents').description('incidents that drift has led to');

  addExamples(
    addLimit(incidents.command('list').description('newest first'))
      .option('--state <state>', STATES, enumValue(IncidentState))
      .option('--environment <id>', 'only of this environment')
      .option('--run <id>', 'only effects of this run')
      .option('--show-deleted', 'also those that were hidden with their run', false)
      .action(({ state, environment, run: runId, showDeleted, ...options }: IncidentListOptions) =>
        run(async (context) => {
          const filter = defined({ showDeleted, state, environmentId: environment, runId });
          await printList(context, context.lethe.incidents.list(filter), options, tableOf);
        }),
      ),
    'lethe --tenant acme incidents list --state DETECTED',
  );

  addExamples(
    incidents
      .command('get <incident>')
      .description('one incident with its timeline, its details and its approvals')
      .option('--show-deleted', 'also one that was hidden with its run', false)
      .action((incidentId: string, options: { showDeleted: boolean }) =>
        run(async ({ lethe, print }) => {
          const incident = await lethe.incidents.get(incidentId, options);
          const approvals = await Array.fromAsync(lethe.incidents.approvals({ incidentId }));
          print(incident, () => incidentText(incident, approvals));
        }),
      ),
    'lethe --tenant acme incidents get 018f6b1e-7c1a-7000-8000-000000000001',
  );

  addExamples(
    incidents
      .command('open')
      .description('open an incident; print its id')
      .requiredOption('--environment <id>', 'the environment that drifted')
      .requiredOption('--title <title>', 'a title for people')
      .option('--check <id>', 'the drift check that found it', '')
      .option('--details <json>', 'its details, which are purged by age', jsonObject)
      .option('--run <id>', 'the run whose effect it is', '')
      .option('--step <name>', 'the step of that run', '')
      .action(({ environment, title, check, details, run: runId, step }: OpenOptions) =>
        run(async ({ lethe, print }) => {
          const incident = await lethe.incidents.open({
            environmentId: environment,
            driftCheckId: check,
            title,
            runId,
            step,
            ...(details ? { driftSummary: details } : {}),
          });
          print(incident, () => incident.id);
        }),
      ),
    "lethe --tenant acme incidents open --environment 018f6b1e-7c1a-7000-8000-000000000001 --title 'sync differs'",
  );

  addExamples(
    incidents
      .command('transition')
      .description('bring it into its next state')
      .argument('<incident>')
      .argument('<state>', STATES, enumValue(IncidentState))
      .option('--note <note>', 'what to say in its timeline', '')
      .option('--etag <etag>', 'only if it still has this etag', '')
      .action((incidentId: string, state: IncidentState, options: { note: string; etag: string }) =>
        run(async ({ lethe, print }) => {
          const incident = await lethe.incidents.transition(incidentId, { state, ...options });
          print(incident, () => tableOf([incident]));
        }),
      ),
    "lethe --tenant acme incidents transition 018f6b1e-7c1a-7000-8000-000000000001 ACKNOWLEDGED --note 'mine'",
  );
}
