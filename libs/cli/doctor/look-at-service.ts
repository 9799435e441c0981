import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { CheckState, type GetStatusResponse } from '#gen/lethe/status/v1/status_service_pb.ts';
import { type Lethe, type LetheError, toLetheError } from '#libs/client/lethe.ts';
import type { ServiceName } from '#libs/client/services.ts';
import { VERSION } from '#libs/service/version.ts';
import { nextStepOf } from '../next-steps.ts';
import { type Finding, type FindingState, findingsOf } from './finding.ts';

const TIMEOUT_MS = 5_000;
/** Clocks that are kept differ by less; tokens suffer from more. */
const MAX_SKEW_MS = 2_000;

/** A status, and by how much the service's clock is ahead of this machine's, to within half the call. */
interface Seen {
  readonly status: GetStatusResponse;
  readonly aheadMs: number;
  readonly withinMs: number;
}

/** What can be told of one service: whether it answers, as what, with which schema, and by which clock. */
export async function lookAtService(lethe: Lethe, service: ServiceName, address: string): Promise<readonly Finding[]> {
  try {
    const seen = await see(lethe, service);
    const { ok } = findingsOf(service);
    return [
      ok('ENDPOINT', `It answers at ${address}.`),
      ...aboutIdentity(service, seen.status),
      aboutSchema(service, seen.status),
      aboutClock(service, seen),
      ...seen.status.checks.map(({ name, state, message, advice }) => ({
        state: STATES[state] ?? 'UNKNOWN',
        of: service,
        name,
        message,
        advice,
      })),
    ];
  } catch (error) {
    return [aboutFailure(service, address, toLetheError(error))];
  }
}

const STATES: Readonly<Record<CheckState, FindingState>> = {
  [CheckState.UNSPECIFIED]: 'UNKNOWN',
  [CheckState.OK]: 'OK',
  [CheckState.WARNING]: 'WARNING',
  [CheckState.FAILED]: 'FAILED',
  [CheckState.UNKNOWN]: 'UNKNOWN',
};

async function see(lethe: Lethe, service: ServiceName): Promise<Seen> {
  const beganAt = Date.now();
  const status = await lethe.services.status[service].getStatus({}, { timeoutMs: TIMEOUT_MS });
  const endedAt = Date.now();
  return {
    status,
    aheadMs: millisOf(status.serviceTime) - (beganAt + endedAt) / 2,
    withinMs: (endedAt - beganAt) / 2,
  };
}

function aboutFailure(service: ServiceName, address: string, error: LetheError): Finding {
  const { failed, warning, unknown } = findingsOf(service);
  const { code, reason, message } = error;
  if (code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED') {
    return failed('ENDPOINT', `It does not answer at ${address}.`, nextStepOf(error) ?? 'Check that it runs.');
  }
  if (code === 'UNIMPLEMENTED') {
    return warning(
      'VERSION',
      'It answers and does not tell its status.',
      'It is older than this command line: update it.',
    );
  }
  if (code === 'PERMISSION_DENIED') {
    const advice = 'Sign in as platform or as an admin, with the scope status:read, to see its status.';
    return unknown('STATUS', `It answers; its status is not for you (${reason}).`, advice);
  }
  if (code === 'UNAUTHENTICATED') {
    const advice = `${nextStepOf(error) ?? ''} If they are right, compare its clock with yours.`.trim();
    return failed('SIGN_IN', `It refuses your token: ${message}`, advice);
  }
  return failed('STATUS', `It cannot tell its status: ${reason}: ${message}`, nextStepOf(error) ?? '');
}

function aboutIdentity(service: ServiceName, status: GetStatusResponse): readonly Finding[] {
  const { ok, warning, failed } = findingsOf(service);
  if (status.service !== service) {
    const advice = `Correct LETHE_${service.toUpperCase()}_ADDRESS or the profile.`;
    return [failed('IDENTITY', `What answers there is the ${status.service} service.`, advice)];
  }
  if (status.version === VERSION) return [ok('VERSION', `It is version ${VERSION}, as this command line.`)];
  const advice = 'Update the older of them.';
  return [warning('VERSION', `It is version ${status.version}, this command line ${VERSION}.`, advice)];
}

function aboutSchema(
  service: ServiceName,
  { databaseTime, missingMigrations, unknownMigrations }: GetStatusResponse,
): Finding {
  const { ok, warning, failed } = findingsOf(service);
  if (!databaseTime) {
    return failed(
      'DATABASE',
      'Its database does not answer.',
      'Check that it runs, and LETHE_DATABASE_URL of the service.',
    );
  }
  if (missingMigrations.length > 0) {
    const lacks = missingMigrations.join(', ');
    return failed('SCHEMA', `Its database lacks migrations: ${lacks}.`, `Run \`migrate\` of the ${service} service.`);
  }
  if (unknownMigrations.length > 0) {
    const has = unknownMigrations.join(', ');
    return warning(
      'SCHEMA',
      `Its database is newer than the service: ${has}.`,
      'Deploy the version that was migrated for.',
    );
  }
  return ok('SCHEMA', 'Its schema is current.');
}

function aboutClock(service: ServiceName, { status, aheadMs, withinMs }: Seen): Finding {
  const { ok, failed, warning } = findingsOf(service);
  const advice = 'Set the clocks by NTP: tokens are judged by the clocks of services, ages by that of the database.';
  const { serviceTime, databaseTime } = status;
  const fromDatabaseMs = databaseTime ? millisOf(serviceTime) - millisOf(databaseTime) : 0;
  if (Math.abs(fromDatabaseMs) > MAX_SKEW_MS) {
    return failed('CLOCK', `Its clock is ${differenceText(fromDatabaseMs)} its database's.`, advice);
  }
  if (Math.abs(aheadMs) > MAX_SKEW_MS + withinMs) {
    return warning('CLOCK', `Its clock is ${differenceText(aheadMs)} that of this machine.`, advice);
  }
  return ok('CLOCK', "Its clock agrees with its database's and with this machine's.");
}

function differenceText(aheadMs: number): string {
  const seconds = Math.round(Math.abs(aheadMs) / 1_000);
  const length =
    seconds < 7_200
      ? `${seconds} s`
      : seconds < 172_800
        ? `${Math.round(seconds / 3_600)} h`
        : `${Math.round(seconds / 86_400)} days`;
  return `${length} ${aheadMs > 0 ? 'ahead of' : 'behind'}`;
}

const millisOf = (time: Timestamp | undefined): number =>
  time ? Number(time.seconds) * 1_000 + time.nanos / 1_000_000 : Number.NaN;
