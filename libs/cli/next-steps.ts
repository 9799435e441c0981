import type { LetheError } from '#libs/client/lethe.ts';

type NextStep = string | ((error: LetheError) => string);

/** What to do about a reason, where its own sentence does not say so already. */
const NEXT_STEPS: Readonly<Record<string, NextStep>> = {
  UNAVAILABLE: ({ metadata: { service = '' } }) =>
    `Check that it runs and that its address is right (LETHE_${service.toUpperCase()}_ADDRESS or the profile), and whether it speaks TLS (--tls-ca). \`lethe doctor\` looks at every service.`,
  DEADLINE_EXCEEDED: 'It may have been done all the same: look before you try again.',
  RESOURCE_EXHAUSTED: 'Try again later, or ask for less at a time.',
  UNIMPLEMENTED: 'The service is older than this command line; `lethe doctor` shows the versions.',
  INTERNAL: "The service's log has the cause.",
  ADDRESS_MISSING: ({ metadata: { service = '' } }) =>
    `Set LETHE_${service.toUpperCase()}_ADDRESS, choose a profile with --profile, or start the local stack with \`npm start\`.`,
  CERTIFICATE_UNUSABLE: 'Check --tls-ca, --tls-cert and --tls-key, or tls in the profile.',
  TOKEN_INVALID:
    'The service does not trust the key, the issuer or the audience: check LETHE_TOKEN or --key against its trust file, and whether the profile is meant for it.',
  TOKEN_EXPIRED: 'Get a new token, or sign in again with `lethe login`.',
  TOKEN_MISSING: 'Set LETHE_TOKEN, or sign in with `lethe login`.',
  ROLE_TOO_LOW:
    'Without --tenant you act as platform; inside a tenant --role chooses the role. A token has the role it was made with.',
  SCOPE_MISSING: 'The token lacks the scope; `lethe token --scope …` signs one that has it.',
  TENANT_MISSING: 'Say in which tenant you act: --tenant TENANT.',
  TENANT_MISMATCH: 'Act in that tenant with --tenant, or as platform without it.',
  TENANT_UNKNOWN: '`lethe tenants list` shows the tenants that have a plan, `lethe tenants unplanned` the others.',
  RATE_LIMITED: 'Wait a second and try again.',
  TOO_MANY_STREAMS: 'End other watches and downloads, or wait until they have ended.',
  RUN_NOT_FOUND:
    'It may be hidden: --show-deleted shows it. `lethe deletions list --target RUN` shows what became of it.',
  JOB_NOT_FOUND: 'It may be hidden or deleted: `lethe deletions list --target JOB` shows what became of it.',
  DELETION_NOT_FOUND: '`lethe deletions list` shows those there are.',
  BULK_DELETION_NOT_FOUND: '`lethe bulk list` shows those there are.',
  BULK_DELETION_FINISHED: '`lethe bulk get` shows how it ended.',
  FILTER_REQUIRED: 'Give a filter, such as --state or --until.',
  TOO_MANY_MATCHES: 'Narrow the filter, for instance with --since and --until.',
  COUNT_CHANGED: 'More match by now: look again with --dry-run, and order it anew.',
  PURGE_NOT_FOUND: '`lethe purges list` shows those there are.',
  INCIDENT_NOT_FOUND: '`lethe incidents list` shows those there are.',
  ENVIRONMENT_NOT_FOUND: '`lethe environments list` shows those there are.',
  APPROVAL_NOT_FOUND: '`lethe approvals list` shows those there are.',
  DRIFT_CHECK_NOT_FOUND: 'It may have been purged by age. `lethe checks list` shows those there are.',
  PLAN_NOT_FOUND: '`lethe plans list` shows those there are; --create makes a new one.',
  TENANT_PLAN_NOT_FOUND: '`lethe plans set PLAN --of TENANT` gives it one.',
  EXECUTION_POLICY_NOT_FOUND: '`lethe policies set` makes one.',
  SUBJECT_NOT_FOUND: '`lethe subjects list` shows those there are.',
  PARTICIPANT_NOT_FOUND: '`lethe participants list` shows those there are.',
  WORKFLOW_NOT_FOUND: '`lethe runs create` opens a run of a workflow that is done elsewhere.',
  ARTIFACT_NOT_FOUND: '`lethe jobs artifacts JOB` shows those there are.',
  RUN_NOT_TERMINAL: 'Cancel it first with `lethe runs cancel`, or wait for its end with `lethe runs watch`.',
  RETENTION_GUARD: 'Wait until it is old enough, or as owner override the guard with --force.',
  RUN_DELETED: 'Bring the run back first with `lethe runs undelete`.',
  RUN_NOT_PARKED: '`lethe runs get` shows where it stands.',
  OPERATION_IN_PROGRESS: ({ metadata: { operation_id: id = '' } }) =>
    `Wait for it with \`lethe deletions watch ${id}\`; if it is STUCK, set it going again with \`lethe deletions redrive ${id}\`.`,
  ETAG_MISMATCH: 'It was changed since you looked: look again, and repeat with the new etag.',
  CONCURRENT_UPDATE: 'Try again.',
  REQUEST_ID_REUSED: 'Give another --request-id, or leave it out.',
  REASON_REQUIRED: 'Give one with --reason.',
  NAME_TAKEN: 'Choose another name.',
  APPROVAL_DECIDED: '`lethe approvals list` shows how.',
  INCIDENT_TRANSITION_ILLEGAL: '`lethe incidents get` shows the states it may go to.',
  DELETION_FINISHED: '`lethe deletions get` shows how it ended.',
  PURGE_NOT_HELD: '`lethe purges get` shows what is held.',
  SUBJECT_LISTED: 'Its owner still lists it: take it out of the owner first.',
  PARTICIPANT_CONFIGURED: "Take it out of RunService's configuration first.",
  DEPENDENCY_UNAVAILABLE: '`lethe doctor` shows which part of the installation does not answer.',
  STORE_NOT_OURS: 'The bucket belongs to another database; see deploy/README.md.',
  ARTIFACT_CORRUPT: 'The stored object is not what was uploaded: upload it again.',
  STREAM_INCOMPLETE: 'The connection broke: call again to go on watching.',
};

/** What to do about an error, in a sentence; undefined where nothing is known beyond what the error says. */
export function nextStepOf(error: LetheError): string | undefined {
  const step = NEXT_STEPS[error.reason];
  return typeof step === 'function' ? step(error) : step;
}
