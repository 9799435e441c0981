import {
  ApprovalState,
  CloseCause,
  DriftFlag,
  DriftStatus,
  type Incident,
  IncidentState,
} from '#gen/lethe/incident/v1/incident_pb.ts';

import { StateBadge } from '../parts/state-badge.tsx';

/** What a state or status is called on the page, and in which of Mantine's colours. */
interface Word {
  readonly label: string;
  readonly color: string;
}

const UNKNOWN: Word = { label: 'Unknown', color: 'gray.6' };

const DRIFT: Readonly<Record<number, Word>> = {
  [DriftStatus.IN_SYNC]: { label: 'In sync', color: 'green' },
  [DriftStatus.DRIFT]: { label: 'Drift', color: 'orange' },
  [DriftStatus.UNKNOWN]: UNKNOWN,
};

const FLAGS: Readonly<Record<number, Word>> = {
  [DriftFlag.MODIFIED]: { label: 'Modified', color: 'orange' },
  [DriftFlag.NOT_IN_GIT]: { label: 'Not in git', color: 'grape' },
  [DriftFlag.UNKNOWN]: UNKNOWN,
};

const INCIDENTS: Readonly<Record<number, Word>> = {
  [IncidentState.DETECTED]: { label: 'Detected', color: 'red' },
  [IncidentState.ACKNOWLEDGED]: { label: 'Acknowledged', color: 'orange' },
  [IncidentState.STABILIZED]: { label: 'Stabilized', color: 'yellow' },
  [IncidentState.RECONCILED]: { label: 'Reconciled', color: 'blue' },
  [IncidentState.CLOSED]: { label: 'Closed', color: 'gray.6' },
};

const APPROVALS: Readonly<Record<number, Word>> = {
  [ApprovalState.PENDING]: { label: 'Waiting for a decision', color: 'blue' },
  [ApprovalState.APPROVED]: { label: 'Approved', color: 'green' },
  [ApprovalState.REJECTED]: { label: 'Rejected', color: 'red' },
};

/** Every state of an incident in the order of its life. */
export const INCIDENT_STATES: readonly IncidentState[] = [
  IncidentState.DETECTED,
  IncidentState.ACKNOWLEDGED,
  IncidentState.STABILIZED,
  IncidentState.RECONCILED,
  IncidentState.CLOSED,
];

/** What an incident's state is called. */
export const incidentStateLabel = (state: IncidentState): string => (INCIDENTS[state] ?? UNKNOWN).label;

/** What a drift status is called. */
export const driftStatusLabel = (status: DriftStatus): string => (DRIFT[status] ?? UNKNOWN).label;

/** An environment's or a check's drift status. */
export const DriftBadge = ({ status }: { readonly status: DriftStatus }) => <WordBadge word={DRIFT[status]} />;

/** How one workflow differs. */
export const FlagBadge = ({ flag }: { readonly flag: DriftFlag }) => <WordBadge word={FLAGS[flag]} />;

/** Where an approval stands. */
export const ApprovalBadge = ({ state }: { readonly state: ApprovalState }) => <WordBadge word={APPROVALS[state]} />;

/** Where an incident stands; one that a compensation closed says so. */
export const IncidentBadge = ({ incident }: { readonly incident: Pick<Incident, 'state' | 'closeCause'> }) => (
  <WordBadge
    word={
      incident.closeCause === CloseCause.COMPENSATED
        ? { label: 'Closed: undone', color: 'gray.6' }
        : INCIDENTS[incident.state]
    }
  />
);

const WordBadge = ({ word = UNKNOWN }: { readonly word: Word | undefined }) => (
  <StateBadge label={word.label} color={word.color} />
);
