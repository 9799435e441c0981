import { toJson } from '@bufbuild/protobuf';
import test from 'ava';
import { IncidentSchema } from '#gen/lethe/incident/v1/incident_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import { participantContract } from './participant.ts';

let stack: TestStack;
let connection: Connection;

// The action names its environment, and the suite names the tenants: every tenant gets one of this id.
const ENVIRONMENT_ID = '01890000-0000-7000-8000-000000000000';

const provideEnvironment = (tenantId: string): Promise<unknown> =>
  queryOnce(
    stack.superuserUrl('incident'),
    `insert into environments (tenant_id, id, display_name) values ($1, $2, 'production') on conflict do nothing`,
    [tenantId, ENVIRONMENT_ID],
  );

test.before(async () => {
  stack = await startTestStack({ services: ['incident'] });
  connection = connect({ address: stack.addresses.incident, token: async () => 'no token' });
});
test.after.always(async () => {
  connection?.close();
  await stack?.dispose();
});

participantContract(test, 'IncidentService', () => ({
  participant(tenantId, changes) {
    const client = stackParticipant(stack, connection, 'incident', tenantId, changes);
    return {
      ...client,
      async execute(request, options) {
        if (tenantId !== undefined) await provideEnvironment(tenantId);
        return client.execute(request, options);
      },
    };
  },
  forger: () => connection.client(ParticipantService),
  hasEffects: true,
  async seed(tenantId, runId, steps) {
    const { incidents } = stack.clients({ tenantId, role: 'member' });
    await provideEnvironment(tenantId);
    for (const step of steps) {
      const driftSummary = { step, files: ['a', 'b'] };
      await incidents.openIncident({ runId, step, environmentId: ENVIRONMENT_ID, title: step, driftSummary });
    }
  },
  async read(tenantId, runId) {
    const { incidents } = stack.clients({ tenantId, role: 'viewer' });
    const page = await incidents.listIncidents({ runId });
    return Promise.all(
      page.incidents.map(async ({ id: incidentId }) => {
        const { incident } = await incidents.getIncident({ incidentId });
        return incident && toJson(IncidentSchema, incident);
      }),
    );
  },
  remains: (tenantId, runId) =>
    queryOnce(
      stack.superuserUrl('incident'),
      `select p.incident_id, p.payload_json from incident_payloads p
       join incidents i on i.tenant_id = p.tenant_id and i.id = p.incident_id
       where i.tenant_id = $1 and i.run_id = $2 order by 1`,
      [tenantId, runId],
    ),
  action: {
    name: 'open-incident',
    input: { environment_id: ENVIRONMENT_ID, title: 'billing drifted', drift_summary: { workflows: ['billing'] } },
    otherInput: { environment_id: ENVIRONMENT_ID, title: 'billing drifted', drift_summary: {} },
  },
}));
