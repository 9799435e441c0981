import { Paper, Stepper, Text, Timeline, Title } from '@mantine/core';
import { useMediaQuery } from '@mantine/hooks';
import { CloseCause, type Incident } from '#gen/lethe/incident/v1/incident_pb.ts';
import { INCIDENT_STATES, incidentStateLabel } from '../incidents/incident-words.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';

/** How far the incident has come, from detected to closed. */
export function Lifecycle({ incident }: { readonly incident: Incident }) {
  const isNarrow = useMediaQuery('(max-width: 62em)', false);
  const reached = new Map(incident.timeline.map((transition) => [transition.state, transition.transitionTime]));
  const current = INCIDENT_STATES.indexOf(incident.state);
  return (
    <Paper withBorder p="md" component="section" aria-label="Lifecycle">
      <Stepper
        active={current + 1}
        size="xs"
        iconSize={28}
        orientation={isNarrow ? 'vertical' : 'horizontal'}
        allowNextStepsSelect={false}
      >
        {INCIDENT_STATES.map((state, index) => (
          <Stepper.Step
            key={state}
            component="div"
            label={incidentStateLabel(state)}
            aria-current={index === current ? 'step' : undefined}
            description={reached.has(state) ? <RelativeTime time={reached.get(state)} /> : <>&nbsp;</>}
          />
        ))}
      </Stepper>
      {incident.closeCause === CloseCause.COMPENSATED && (
        <Text size="sm" c="dimmed" mt="sm">
          Closed because the step that opened it was undone.
        </Text>
      )}
    </Paper>
  );
}

/** Every transition with who made it and what they said, newest first. */
export function IncidentTimeline({ incident }: { readonly incident: Incident }) {
  const transitions = incident.timeline.toReversed();
  return (
    <Paper withBorder p="md" component="section" aria-labelledby="timeline">
      <Title order={2} size="h4" id="timeline" mb="md">
        Timeline
      </Title>
      <Timeline bulletSize={14} lineWidth={2} active={transitions.length}>
        {transitions.map(({ state, actor, note, transitionTime }) => (
          <Timeline.Item key={state} title={incidentStateLabel(state)}>
            <Text size="xs" c="dimmed">
              <RelativeTime time={transitionTime} /> by {actor}
            </Text>
            {note && (
              <Text size="sm" mt={4} style={{ overflowWrap: 'anywhere' }}>
                {note}
              </Text>
            )}
          </Timeline.Item>
        ))}
      </Timeline>
    </Paper>
  );
}
