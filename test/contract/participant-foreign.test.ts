import { execFile } from 'node:child_process';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import type { JsonObject } from '@bufbuild/protobuf';
import test from 'ava';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { readSigningKey } from '#libs/auth/keys.ts';
import { connect } from '#libs/grpc/client.ts';
import { participantClient } from '#test/support/participant-clients.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { startTestStack, until } from '#test/support/test-stack.ts';
import { type ParticipantUnderTest, participantContract } from './participant.ts';

// The suite for a service of somebody else's, told by the environment where it is and how to make something in it. Told
// nothing, it runs the README's command for it against JobService.

/** What a module named by LETHE_PARTICIPANT_SEEDER exports. */
type Seeder = Pick<ParticipantUnderTest, 'seed'> & Partial<Omit<ParticipantUnderTest, 'participant' | 'forger'>>;

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const { env } = process;

function setting(name: string): string {
  const value = env[name];
  if (!value) throw new Error(`${name} is required; see proto/README.md`);
  return value;
}

/** Makes things by the participant's own action, one for each step. */
function actingSeeder(participantOf: ParticipantUnderTest['participant']): Seeder {
  const action = {
    name: setting('LETHE_PARTICIPANT_ACTION'),
    input: JSON.parse(setting('LETHE_PARTICIPANT_INPUT')) as JsonObject,
    otherInput: JSON.parse(setting('LETHE_PARTICIPANT_OTHER_INPUT')) as JsonObject,
  };
  return {
    action,
    hasEffects: true,
    async seed(tenantId, runId, steps) {
      for (const step of steps) {
        const request = { key: { operationId: runId, step }, runId, action: action.name, input: action.input };
        const isDone = async () => (await participantOf(tenantId).execute(request)).progress === Progress.COMPLETE;
        await until('the action is COMPLETE', isDone);
      }
    },
  };
}

async function declareForForeign(): Promise<void> {
  const key = await readSigningKey(setting('LETHE_PARTICIPANT_KEY'));
  const connection = connect({ address: setting('LETHE_PARTICIPANT_ADDRESS'), token: async () => 'no token' });
  test.after.always(() => connection.close());
  const caller = { connection, name: setting('LETHE_PARTICIPANT_NAME'), key: async () => key };
  const participant: ParticipantUnderTest['participant'] = (tenantId, changes) =>
    participantClient(caller, tenantId, { issuer: env['LETHE_JWT_ISSUER'] ?? 'lethe', ...changes });
  const module = env['LETHE_PARTICIPANT_SEEDER'];
  const seeder: Seeder = module ? await import(pathToFileURL(resolve(module)).href) : actingSeeder(participant);
  participantContract(test, 'foreign participant', () => ({
    hasEffects: false,
    ...seeder,
    participant,
    forger: () => connection.client(ParticipantService),
  }));
}

if (env['LETHE_PARTICIPANT_ADDRESS'] !== undefined) await declareForForeign();
else {
  test("the README's command holds a service that it knows by its address alone to the contract", async (t) => {
    const readme = await readReadmes();
    const command = /```sh\n(LETHE_PARTICIPANT_ADDRESS=[\s\S]*?)```/.exec(readme)?.[1] ?? 'false';
    const stack = await startTestStack({ services: ['job'] });
    t.teardown(() => stack.dispose());
    const script = command.replace('127.0.0.1:7402', stack.addresses.job).replace('.lethe/', `${stack.folder}/`);
    const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', script], { cwd: REPOSITORY });
    t.regex(stdout, /foreign participant: a purge takes what the preview told/);
    t.regex(stdout, /[34]\d tests passed/);
  });
}
