import { PurgeState, SubjectState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { type Lethe, toLetheError } from '#libs/client/lethe.ts';
import { stateOfParticipant } from '../commands/participants.ts';
import { stopText } from '../commands/stop.ts';
import { whyOfSubject } from '../commands/subjects.ts';
import { nameOf } from '../output.ts';
import { type Finding, findingsOf } from './finding.ts';

/** What only the platform may ask: participants, subjects and their owners, tenants without a plan, purges. */
export const configurationLooks = (lethe: Lethe): readonly (() => Promise<readonly Finding[]>)[] => [
  () => orUnknown('participants', () => lookAtParticipants(lethe)),
  () => orUnknown('owners', () => lookAtSubjects(lethe)),
  () => orUnknown('tenants', () => lookAtTenants(lethe)),
  () => orUnknown('purges', () => lookAtPurges(lethe)),
];

/** A service that does not answer is told by the look at the service itself. */
async function orUnknown(of: string, look: () => Promise<readonly Finding[]>): Promise<readonly Finding[]> {
  try {
    return await look();
  } catch (error) {
    return [findingsOf(of).unknown('CONFIGURATION', `It could not be told: ${toLetheError(error).message}`)];
  }
}

async function lookAtParticipants(lethe: Lethe): Promise<readonly Finding[]> {
  const { ok, failed } = findingsOf('participants');
  const known = await Array.fromAsync(lethe.participants.list());
  const findings = known.flatMap((participant) => {
    const { name } = participant;
    switch (stateOfParticipant(participant)) {
      case 'CHANGED':
        return [
          failed(
            'PARTICIPANT_CHANGED',
            `${name} answers from another data set than before; deletions wait for it.`,
            `Point it at its data, or \`lethe participants confirm ${name} --reason …\`.`,
          ),
        ];
      case 'NOT CONFIGURED':
        return [
          failed(
            'PARTICIPANT_UNKNOWN',
            `${name} is not configured any more; deletions wait for it.`,
            `Put it back into LETHE_PARTICIPANTS, or \`lethe participants retire ${name} --reason …\`.`,
          ),
        ];
      default:
        return [];
    }
  });
  return findings.length > 0 ? findings : [ok('PARTICIPANTS', `All ${known.length} participants are configured.`)];
}

const QUIET: ReadonlySet<SubjectState> = new Set([SubjectState.ACTIVE, SubjectState.RETIRED]);

async function lookAtSubjects(lethe: Lethe): Promise<readonly Finding[]> {
  const { ok, warning } = findingsOf('owners');
  const subjects = await Array.fromAsync(lethe.retention.subjects.list());
  const findings = subjects
    .filter(({ state }) => !QUIET.has(state))
    .map((subject) =>
      warning(
        'SUBJECT',
        `${subject.name} of ${subject.owner} is ${nameOf(SubjectState, subject.state)}: ${whyOfSubject(subject)}`,
        `\`lethe subjects confirm ${subject.name}\` or \`retire ${subject.name}\`, once it is clear why.`,
      ),
    );
  return findings.length > 0 ? findings : [ok('OWNERS', `All ${subjects.length} subjects have their owners.`)];
}

async function lookAtTenants(lethe: Lethe): Promise<readonly Finding[]> {
  const { ok, warning } = findingsOf('tenants');
  for await (const { tenantId } of lethe.retention.tenants.unplanned()) {
    const message = `There are tenants with data and without a plan, such as ${tenantId}: nothing of theirs is purged.`;
    return [
      warning('UNPLANNED', message, '`lethe tenants unplanned` lists them, `lethe plans set` gives them a plan.'),
    ];
  }
  return [ok('UNPLANNED', 'Every tenant that has data has a plan or a policy.')];
}

async function lookAtPurges(lethe: Lethe): Promise<readonly Finding[]> {
  const { ok, warning } = findingsOf('purges');
  const stop = await lethe.retention.stopSwitch.get();
  if (stop.isStopped) return [warning('STOPPED', `${stopText(stop)}.`, '`lethe resume --reason …` lifts the stop.')];
  for await (const { id, state } of lethe.retention.listPurges()) {
    const message = `The last purge, ${id}, is ${nameOf(PurgeState, state)}.`;
    const isWell = state !== PurgeState.PARTIAL && state !== PurgeState.HELD;
    return [
      isWell ? ok('LAST_PURGE', message) : warning('LAST_PURGE', message, `\`lethe purges get ${id}\` shows why.`),
    ];
  }
  return [ok('LAST_PURGE', 'Nothing was purged by age yet.')];
}
