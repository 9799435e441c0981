import type { Command } from 'commander';
import { type Approval, ApprovalState, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import type { Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue } from '../parse.ts';
import { makeTable } from '../table.ts';

interface ApprovalListOptions extends ListOptions {
  readonly state?: ApprovalState;
  readonly incident?: string;
}

interface DecideOptions {
  readonly notes: string;
  readonly etag: string;
}

const purgedNotes = ({ notesPurgeTime }: Approval): string => (notesPurgeTime ? 'notes were purged' : '');

/** Approvals, one a row. */
export const approvalTable = makeTable<Approval>({
  APPROVAL: ({ id }) => id,
  STATE: ({ state }) => nameOf(ApprovalState, state),
  'TO BECOME': ({ requestedState }) => nameOf(IncidentState, requestedState),
  'ASKED BY': ({ requestedBy }) => requestedBy,
  'DECIDED BY': ({ decidedBy }) => decidedBy,
  WHEN: ({ decideTime, createTime }) => instantOf(decideTime ?? createTime),
  NOTES: (approval) =>
    [approval.requestNotes, approval.decisionNotes].filter((notes) => notes !== '').join('; ') || purgedNotes(approval),
});

/** `lethe approvals …`. */
export function addApprovalCommands(program: Command, run: Run): void {
  const approvals = program.command('approvals').description("approvals of incidents' next states");

  addExamples(
    addLimit(approvals.command('list').description('newest first'))
      .option('--state <state>', `one of ${enumNames(ApprovalState).join(', ')}`, enumValue(ApprovalState))
      .option('--incident <id>', 'only of this incident')
      .action(({ state, incident, ...options }: ApprovalListOptions) =>
        run(async (context) => {
          const filter = defined({ state, incidentId: incident });
          await printList(context, context.lethe.incidents.approvals(filter), options, approvalTable);
        }),
      ),
    'lethe --tenant acme approvals list --state PENDING',
  );

  addExamples(
    approvals
      .command('request')
      .description('ask that an incident may go to a state; print the id of the approval')
      .argument('<incident>')
      .argument('<state>', `one of ${enumNames(IncidentState).join(', ')}`, enumValue(IncidentState))
      .option('--notes <notes>', 'what to tell those who decide', '')
      .action((incidentId: string, requestedState: IncidentState, { notes }: { notes: string }) =>
        run(async ({ lethe, print }) => {
          const approval = await lethe.incidents.requestApproval(incidentId, { requestedState, notes });
          print(approval, () => approval.id);
        }),
      ),
    "lethe --tenant acme approvals request 018f6b1e-7c1a-7000-8000-000000000001 CLOSED --notes 'it is reconciled'",
  );

  addExamples(
    approvals
      .command('decide')
      .description('APPROVED or REJECTED, once and for ever')
      .argument('<approval>')
      .argument('<decision>', 'APPROVED or REJECTED', enumValue(ApprovalState))
      .option('--notes <notes>', 'what to say about it', '')
      .option('--etag <etag>', 'only if it still has this etag', '')
      .action((approvalId: string, decision: ApprovalState, options: DecideOptions) =>
        run(async ({ lethe, print }) => {
          const approval = await lethe.incidents.decideApproval(approvalId, { decision, ...options });
          print(approval, () => approvalTable([approval]));
        }),
      ),
    'lethe --tenant acme approvals decide 018f6b1e-7c1a-7000-8000-000000000001 APPROVED',
  );
}
