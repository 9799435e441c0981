import { Button, Group, Modal, Stack, Text, Textarea } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { type Incident, IncidentState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { incidentStateLabel } from '../incidents/incident-words.tsx';
import { ErrorAlert } from '../parts/error-alert.tsx';
import { incidents } from '../rpc.ts';

const NOTE_LIMIT = 500;

interface TransitionDialogProps {
  readonly incident: Incident;
  readonly state: IncidentState;
  readonly onClose: () => void;
}

/** Asks whether the incident should go to its next state, with a note for the timeline. */
export function TransitionDialog({ incident, state, onClose }: TransitionDialogProps) {
  const queries = useQueryClient();
  const [note, setNote] = useState('');
  const label = incidentStateLabel(state);
  const transition = useMutation({
    mutationFn: () => incidents.transitionIncident({ incidentId: incident.id, state, note, etag: incident.etag }),
    onSuccess: async (answer) => {
      queries.setQueryData(['incident', incident.id], answer.incident);
      await Promise.all(
        [['incident', incident.id], ['incidents'], ['drift-dashboard']].map((queryKey) =>
          queries.invalidateQueries({ queryKey }),
        ),
      );
      notifications.show({ message: `The incident is ${label.toLowerCase()}.` });
      onClose();
    },
    // Somebody else may have moved it meanwhile: show where it stands now behind the error.
    onError: () => queries.invalidateQueries({ queryKey: ['incident', incident.id] }),
  });
  return (
    <Modal opened onClose={onClose} title={`Mark the incident as ${label.toLowerCase()}?`}>
      <Stack>
        <Text size="sm">
          “{incident.title}” goes from {incidentStateLabel(incident.state).toLowerCase()} to {label.toLowerCase()}.
          States cannot be taken back.
          {state === IncidentState.CLOSED &&
            ' Once it is closed, its drift details and approvals are kept as long as the retention windows say.'}
        </Text>
        <Textarea
          label="Note"
          description="Shown in the timeline."
          data-autofocus
          autosize
          minRows={2}
          maxLength={NOTE_LIMIT}
          value={note}
          onChange={(event) => setNote(event.currentTarget.value)}
        />
        {transition.isError && <ErrorAlert error={transition.error} />}
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            Cancel
          </Button>
          <Button loading={transition.isPending} onClick={() => transition.mutate()}>
            Mark as {label.toLowerCase()}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
