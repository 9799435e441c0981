import { Alert, Button, Group, Modal, Paper, Select, SimpleGrid, Stack, Text, Textarea, Title } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { IconInfoCircle } from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { type Approval, ApprovalState, type Incident, type IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { ApprovalBadge, incidentStateLabel } from '../incidents/incident-words.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { Gated } from '../parts/gated.tsx';
import { LoadingRows } from '../parts/loading-rows.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { incidents } from '../rpc.ts';
import { useReasonNot } from '../session.ts';

const NOTES_LIMIT = 2_000;

/** The approvals of one incident: what was asked for, who decided, and what is still waiting. */
export function Approvals({ incident }: { readonly incident: Incident }) {
  const [isAsking, setAsking] = useState(false);
  const [deciding, setDeciding] = useState<Approval>();
  const query = useQuery({
    queryKey: ['approvals', incident.id],
    queryFn: ({ signal }) => incidents.listApprovals({ incidentId: incident.id, pageSize: 200 }, { signal }),
  });
  const mayAsk = useReasonNot({ role: 'member', scope: 'incidents:write' });
  const mayDecide = useReasonNot({ role: 'admin', scope: 'incidents:write' });
  const approvals = query.data?.approvals ?? [];
  return (
    <Paper withBorder p="md" component="section" aria-labelledby="approvals">
      <Group justify="space-between" mb="sm">
        <Title order={2} size="h4" id="approvals">
          Approvals
        </Title>
        {incident.nextStates.length > 0 && (
          <Gated because={mayAsk}>
            <Button variant="default" size="xs" onClick={() => setAsking(true)}>
              Request approval
            </Button>
          </Gated>
        )}
      </Group>
      {incident.approvalsNotice && (
        <Alert variant="light" color="gray" icon={<IconInfoCircle size={18} aria-hidden />} mb="sm">
          {incident.approvalsNotice}
        </Alert>
      )}
      {query.isError ? (
        <ErrorAlert error={query.error} onRetry={() => query.refetch()} />
      ) : query.isPending ? (
        <LoadingRows rows={2} />
      ) : approvals.length === 0 ? (
        <Text size="sm" c="dimmed">
          {incident.approvalsNotice ? 'None are left.' : 'No approval was requested.'}
        </Text>
      ) : (
        <Stack gap="sm">
          {approvals.map((approval) => (
            <Paper key={approval.id} withBorder p="sm">
              <Group justify="space-between" gap="xs">
                <Text size="sm" fw={600}>
                  To {incidentStateLabel(approval.requestedState).toLowerCase()}
                </Text>
                <ApprovalBadge state={approval.state} />
              </Group>
              <Note by={approval.requestedBy} verb="asked" at={approval.createTime} text={approval.requestNotes} />
              {approval.decidedBy && (
                <Note by={approval.decidedBy} verb="decided" at={approval.decideTime} text={approval.decisionNotes} />
              )}
              {approval.notesPurgeTime && (
                <Text size="xs" c="dimmed" mt={4}>
                  Its notes were purged <RelativeTime time={approval.notesPurgeTime} />.
                </Text>
              )}
              {approval.state === ApprovalState.PENDING && (
                <Group mt="xs">
                  <Gated because={mayDecide}>
                    <Button size="xs" variant="light" onClick={() => setDeciding(approval)}>
                      Decide
                    </Button>
                  </Gated>
                </Group>
              )}
            </Paper>
          ))}
        </Stack>
      )}
      {isAsking && <RequestApproval incident={incident} onClose={() => setAsking(false)} />}
      {deciding && <DecideApproval approval={deciding} onClose={() => setDeciding(undefined)} />}
    </Paper>
  );
}

interface NoteProps {
  readonly by: string;
  readonly verb: string;
  readonly at: Approval['createTime'];
  readonly text: string;
}

const Note = ({ by, verb, at, text }: NoteProps) => (
  <Text size="sm" component="div" mt={4} style={{ overflowWrap: 'anywhere' }}>
    <Text span size="xs" c="dimmed">
      {by} {verb} <RelativeTime time={at} />
    </Text>
    {text && <div>{text}</div>}
  </Text>
);

function RequestApproval({ incident, onClose }: { readonly incident: Incident; readonly onClose: () => void }) {
  const queries = useQueryClient();
  const [state, setState] = useState(String(incident.nextStates[0] ?? ''));
  const [notes, setNotes] = useState('');
  // One id for all attempts of this dialog, so that a retry after a lost answer does not ask twice.
  const [requestId] = useState(() => crypto.randomUUID());
  const ask = useMutation({
    mutationFn: () =>
      incidents.requestApproval({
        requestId,
        incidentId: incident.id,
        requestedState: Number(state) as IncidentState,
        notes,
      }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ['approvals', incident.id] });
      notifications.show({ message: 'Approval requested.' });
      onClose();
    },
  });
  return (
    <Modal opened onClose={onClose} title="Request approval">
      <Stack>
        <Select
          label="For the transition to"
          allowDeselect={false}
          value={state}
          onChange={(value) => setState(value ?? state)}
          data={incident.nextStates.map((next) => ({ value: String(next), label: incidentStateLabel(next) }))}
        />
        <Textarea
          label="Notes"
          description="For those who decide."
          data-autofocus
          autosize
          minRows={3}
          maxLength={NOTES_LIMIT}
          value={notes}
          onChange={(event) => setNotes(event.currentTarget.value)}
        />
        {ask.isError && <ErrorAlert error={ask.error} />}
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            Cancel
          </Button>
          <Button loading={ask.isPending} onClick={() => ask.mutate()}>
            Request approval
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}

function DecideApproval({ approval, onClose }: { readonly approval: Approval; readonly onClose: () => void }) {
  const queries = useQueryClient();
  const [notes, setNotes] = useState('');
  const decide = useMutation({
    mutationFn: (decision: ApprovalState) =>
      incidents.decideApproval({ approvalId: approval.id, decision, notes, etag: approval.etag }),
    onSuccess: async (_, decision) => {
      await queries.invalidateQueries({ queryKey: ['approvals', approval.incidentId] });
      notifications.show({ message: decision === ApprovalState.APPROVED ? 'Approved.' : 'Rejected.' });
      onClose();
    },
  });
  const isPending = (decision: ApprovalState) => decide.isPending && decide.variables === decision;
  return (
    <Modal opened onClose={onClose} title={`Approve the transition to ${incidentStateLabel(approval.requestedState)}?`}>
      <Stack>
        <Note by={approval.requestedBy} verb="asked" at={approval.createTime} text={approval.requestNotes} />
        <Textarea
          label="Notes"
          description="A decision cannot be changed later."
          data-autofocus
          autosize
          minRows={3}
          maxLength={NOTES_LIMIT}
          value={notes}
          onChange={(event) => setNotes(event.currentTarget.value)}
        />
        {decide.isError && <ErrorAlert error={decide.error} />}
        <SimpleGrid cols={2}>
          <Button
            color="red"
            variant="light"
            loading={isPending(ApprovalState.REJECTED)}
            disabled={decide.isPending}
            onClick={() => decide.mutate(ApprovalState.REJECTED)}
          >
            Reject
          </Button>
          <Button
            loading={isPending(ApprovalState.APPROVED)}
            disabled={decide.isPending}
            onClick={() => decide.mutate(ApprovalState.APPROVED)}
          >
            Approve
          </Button>
        </SimpleGrid>
      </Stack>
    </Modal>
  );
}
