import type { Client } from '@connectrpc/connect';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import type { ParticipantScope } from '#libs/auth/authorize.ts';
import { readSigningKey, type SigningKey } from '#libs/auth/keys.ts';
import { calleeAudience } from '#libs/auth/sign-token.ts';
import type { Connection } from '#libs/grpc/client.ts';
import { type CalleeToken, signCalleeToken } from './callee-token.ts';
import type { TestStack } from './test-stack.ts';

/** A client of one participant. */
export type ParticipantClient = Client<typeof ParticipantService>;

/** The scope that each RPC of a participant needs. */
export const PARTICIPANT_SCOPES = {
  preview: 'participant:preview',
  checkAction: 'participant:preview',
  execute: 'participant:execute',
  compensate: 'participant:compensate',
  softDelete: 'participant:delete',
  restore: 'participant:delete',
  purge: 'participant:purge',
  verify: 'participant:verify',
} as const satisfies Record<keyof ParticipantClient, ParticipantScope>;

/** Who signs for calls of a participant. */
export interface ParticipantCaller {
  readonly connection: Connection;
  /** The participant's name, for which tokens are made. */
  readonly name: string;
  /** RunService's private key. */
  readonly key: () => Promise<SigningKey>;
}

/**
 * A client of a participant as RunService has it: each call has a token that was made for it, with the request's own run,
 * operation and step. `changes` are what the tokens say instead; without a tenant they name none.
 */
export function participantClient(
  { connection, name, key }: ParticipantCaller,
  tenantId: string | undefined,
  changes: Partial<CalleeToken> = {},
): ParticipantClient {
  const audience = calleeAudience('participant', name);
  return clientWithTokens(
    (token) => connection.client(ParticipantService, async () => signCalleeToken(await key(), audience, token)),
    tenantId,
    changes,
  );
}

/** As participantClient, whatever carries the token to the participant: `clientWith` gives a client that sends this one. */
export function clientWithTokens(
  clientWith: (token: CalleeToken) => ParticipantClient,
  tenantId: string | undefined,
  changes: Partial<CalleeToken> = {},
): ParticipantClient {
  const usual = { tenantId, role: 'service', actor: 'ada', actingService: 'service:run', audience: 'own' } as const;
  const lived = { lifetimeSeconds: 60, issuedSecondsAgo: 0, signature: 'good' } as const;
  type Request = { runId?: string; key?: { operationId?: string; step?: string } };
  const methods = Object.entries(PARTICIPANT_SCOPES).map(([method, scope]) => {
    const call = (request: Request, ...options: unknown[]): unknown => {
      const token: CalleeToken = {
        ...usual,
        ...lived,
        scope,
        runId: request.runId || undefined,
        operationId: request.key?.operationId || undefined,
        step: request.key?.step || undefined,
        ...changes,
      };
      const client = clientWith(token);
      return (client as unknown as Record<string, (...args: unknown[]) => unknown>)[method]?.(request, ...options);
    };
    return [method, call];
  });
  return Object.fromEntries(methods) as ParticipantClient;
}

const keys = new Map<string, Promise<SigningKey>>();

/** Such a client of one of a stack's own services. */
export const stackParticipant = (
  stack: TestStack,
  connection: Connection,
  name: 'run' | 'job' | 'incident',
  tenantId: string | undefined,
  changes?: Partial<CalleeToken>,
): ParticipantClient => {
  const file = stack.suiteKeyFile;
  const key = () => {
    const known = keys.get(file) ?? readSigningKey(file);
    keys.set(file, known);
    return known;
  };
  return participantClient({ connection, name, key }, tenantId, changes);
};
