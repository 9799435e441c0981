import { openSigningKey } from '#libs/auth/keys.ts';
import { makeParticipantCredential } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { logCertificates } from '#libs/grpc/tls.ts';
import type { Logger } from '#libs/telemetry/logger.ts';
import type { RunSettings } from '../../config.ts';
import { makeAssertData } from '../../use-cases/keep-participants.ts';
import type { ParticipantDirectory } from '../../use-cases/ports.ts';
import type { Peer } from './call-participant.ts';

// What the contract allows.
const MAX_LOOK_BUDGET_MS = 60_000;

type PeerSettings = Pick<
  RunSettings,
  'serviceKey' | 'jwtIssuer' | 'participants' | 'participantTimeoutMs' | 'clientTls'
>;

/** Connects to the participants of the settings, whose calls have tokens of their own. */
export async function connectPeers(
  { serviceKey, jwtIssuer, participants, participantTimeoutMs, clientTls }: PeerSettings,
  directory: Pick<ParticipantDirectory, 'bindData'>,
  log: Logger,
): Promise<readonly Peer[]> {
  const credential = makeParticipantCredential({ key: await openSigningKey(serviceKey), issuer: jwtIssuer }, 'run');
  return participants.map(({ name, address }) => ({
    name,
    connection: connect({
      address,
      deadlineMs: participantTimeoutMs,
      tls: clientTls,
      onCertificates: logCertificates(log),
      token: () => Promise.reject(new Error('each call of a participant has a token of its own')),
    }),
    credential,
    assertData: makeAssertData(directory, name),
    // The rest of the deadline is for the last of what it looks at, and for the way.
    lookBudgetMs: Math.min(MAX_LOOK_BUDGET_MS, Math.round(participantTimeoutMs / 3)),
  }));
}
