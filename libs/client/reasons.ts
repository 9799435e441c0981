import type { StatusName } from './lethe-error.ts';

/** What a caller should know about a reason. */
export interface ReasonEntry {
  /** The status code it comes with; RECEIPT for one that only stands in a receipt, as `REASON: sentence`. */
  readonly code: StatusName | 'RECEIPT';
  /** When it is met. */
  readonly when: string;
  /** What to do about it. `{name}` stands for the error's metadata of that name, `{NAME}` for the same in capitals. */
  readonly next: string;
}

/**
 * Every reason that a caller of Lethe meets: in the ErrorInfo of a refusal, in a receipt, or from this client. A test
 * compares it with what the code throws; proto/README.md and the command line are made from it.
 */
export const REASONS = {
  ACTION_REFUSED: {
    code: 'FAILED_PRECONDITION',
    when: 'A step of a run needs something that is not there, or was ended meanwhile.',
    next: 'Start a new run with the right input.',
  },
  ADDRESS_MISSING: {
    code: 'FAILED_PRECONDITION',
    when: 'The client was given no address of the service; nothing was sent.',
    next: 'Set LETHE_{SERVICE}_ADDRESS, choose a profile with --profile, or start the local stack with `npm start`.',
  },
  ALREADY_DELETED: {
    code: 'RECEIPT',
    when: 'An item of a bulk deletion had been deleted before its turn came.',
    next: 'Nothing: the item was skipped.',
  },
  ANSWERS_LOST: {
    code: 'RECEIPT',
    when: 'The object store stopped answering while objects were being removed.',
    next: 'Nothing: the removal is tried again. `lethe doctor` shows whether the store answers.',
  },
  ANSWER_INCOMPLETE: {
    code: 'INTERNAL',
    when: 'A service left out of its answer what the client needs.',
    next: 'The service is older or newer than this client; `lethe doctor` shows the versions.',
  },
  APPROVAL_DECIDED: {
    code: 'FAILED_PRECONDITION',
    when: 'The approval was decided before, in another way.',
    next: '`lethe approvals list` shows how.',
  },
  APPROVAL_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such approval in the tenant.',
    next: '`lethe approvals list` shows those there are.',
  },
  ARTIFACT_CORRUPT: {
    code: 'DATA_LOSS',
    when: 'The stored object differs in size or digest from what was uploaded.',
    next: 'The stored object is not what was uploaded: upload it again.',
  },
  ARTIFACT_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'The job has no artifact of this kind and name.',
    next: '`lethe jobs artifacts JOB` shows those there are.',
  },
  ARTIFACT_TOO_LARGE: {
    code: 'RESOURCE_EXHAUSTED',
    when: 'The upload is larger than the service takes; `max_bytes` is the limit.',
    next: 'Upload at most {max_bytes} bytes, in parts under several names if need be.',
  },
  BRIEF_NOT_FOUND: {
    code: 'FAILED_PRECONDITION',
    when: 'The `brief_id` of a run names no brief of the tenant.',
    next: 'Start the run with a brief that exists, or with the text of a new one.',
  },
  BULK_DELETION_FINISHED: {
    code: 'FAILED_PRECONDITION',
    when: 'The bulk deletion is over, so there is nothing to cancel.',
    next: '`lethe bulk get` shows how it ended.',
  },
  BULK_DELETION_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such bulk deletion in the tenant.',
    next: '`lethe bulk list` shows those there are.',
  },
  CANCELLED: {
    code: 'CANCELLED',
    when: "The caller's signal ended the call.",
    next: 'It may have been done all the same: look before you try again.',
  },
  CERTIFICATE_UNUSABLE: {
    code: 'FAILED_PRECONDITION',
    when: 'A TLS file of the client cannot be used; nothing was sent.',
    next: 'Check --tls-ca, --tls-cert and --tls-key, or tls in the profile.',
  },
  CLOCKS_DISAGREE: {
    code: 'FAILED_PRECONDITION',
    when: "An owner's clock and RetentionService's differ by more than a minute, so nothing is purged.",
    next: 'Set the clocks of both database servers right; `lethe doctor` compares them.',
  },
  CONCURRENT_UPDATE: {
    code: 'ABORTED',
    when: 'Something else changed the same thing at the same time.',
    next: 'Try again.',
  },
  COUNT_CHANGED: {
    code: 'FAILED_PRECONDITION',
    when: 'More match now than `expected_count`.',
    next: 'More match by now: look again with --dry-run, and order it anew.',
  },
  CUTOFF_TOO_LATE: {
    code: 'FAILED_PRECONDITION',
    when: 'An owner was asked to purge rows younger than the window.',
    next: 'Give the cutoff that the owner answered.',
  },
  DEADLINE_EXCEEDED: {
    code: 'DEADLINE_EXCEEDED',
    when: 'There was no answer in time.',
    next: 'It may have been done all the same: look before you try again.',
  },
  DELETION_FINISHED: {
    code: 'FAILED_PRECONDITION',
    when: 'The deletion is over, so there is nothing to redrive.',
    next: '`lethe deletions get` shows how it ended.',
  },
  DELETION_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such deletion in the tenant.',
    next: '`lethe deletions list` shows those there are.',
  },
  DELIVERY_FAILED: {
    code: 'RECEIPT',
    when: "A run's delivery failed; the run is compensated.",
    next: '`lethe runs steps RUN` shows what was undone.',
  },
  DEPENDENCY_UNAVAILABLE: {
    code: 'UNAVAILABLE',
    when: 'Something the service needs does not answer; `dependency` names it.',
    next: '`lethe doctor` shows which part of the installation does not answer.',
  },
  DRIFT_CHECK_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such drift check in the tenant.',
    next: 'It may have been purged by age. `lethe checks list` shows those there are.',
  },
  ENVIRONMENT_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such environment in the tenant.',
    next: '`lethe environments list` shows those there are.',
  },
  ETAG_MISMATCH: {
    code: 'ABORTED',
    when: 'The thing has changed since the caller read it.',
    next: 'It was changed since you looked: look again, and repeat with the new etag.',
  },
  EXECUTION_POLICY_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'The tenant has no execution policy.',
    next: '`lethe policies set` makes one.',
  },
  FIELD_INVALID: {
    code: 'INVALID_ARGUMENT',
    when: 'Fields of the request are wrong; BadRequest names each of them.',
    next: 'Correct what is named, and call again.',
  },
  FOREIGN_KEY: {
    code: 'RECEIPT',
    when: "A key among a tenant's objects that Lethe does not make, such as the marker of a folder.",
    next: 'Look at what made it, and remove it by the means of the object store.',
  },
  FILTER_REQUIRED: {
    code: 'INVALID_ARGUMENT',
    when: 'A bulk deletion was ordered without a condition.',
    next: 'Give a filter, such as --state or --until.',
  },
  INCIDENT_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such incident in the tenant.',
    next: '`lethe incidents list` shows those there are.',
  },
  INCIDENT_TRANSITION_ILLEGAL: {
    code: 'FAILED_PRECONDITION',
    when: 'The incident cannot go from its state to that one.',
    next: '`lethe incidents get` shows the states it may go to.',
  },
  INTERNAL: {
    code: 'INTERNAL',
    when: "Something is broken; `incident_id` finds it in the service's log.",
    next: "The service's log has the cause.",
  },
  ITEMS_FAILED: {
    code: 'RECEIPT',
    when: 'A participant could not remove an item.',
    next: 'Look into the service that is named, then `lethe deletions redrive`.',
  },
  JOB_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such job in the tenant, or it is hidden with its run.',
    next: 'It may be hidden or deleted: `lethe deletions list --target JOB` shows what became of it.',
  },
  JOB_NOT_TERMINAL: {
    code: 'FAILED_PRECONDITION',
    when: 'The job, or one of the run, has not ended.',
    next: 'Cancel the job with `lethe jobs cancel`, or wait for its end with `lethe jobs watch`.',
  },
  JOB_STATE_FORBIDS_UPLOAD: {
    code: 'FAILED_PRECONDITION',
    when: "The job takes no such artifact in its state, or not without its worker's lease.",
    next: 'INPUT goes to a PENDING job; TASK and OUTPUT need the lease of the worker that claimed it.',
  },
  JOB_TRANSITION_ILLEGAL: {
    code: 'FAILED_PRECONDITION',
    when: 'The job cannot go from its state to that one.',
    next: '`lethe jobs get` shows where it stands.',
  },
  LEASE_LOST: {
    code: 'ABORTED',
    when: 'The lease ran out, or another worker has claimed the work.',
    next: 'Stop working on it, and claim again.',
  },
  NAME_TAKEN: {
    code: 'FAILED_PRECONDITION',
    when: 'The tenant has an environment of that name.',
    next: 'Choose another name.',
  },
  NOT_EMPTY: {
    code: 'RECEIPT',
    when: 'A participant still holds something after the purge.',
    next: 'Look into the service that is named, then `lethe deletions redrive`.',
  },
  NO_PROGRESS: {
    code: 'RECEIPT',
    when: 'A participant says again and again that it is not done, and removes nothing.',
    next: 'Look into the service that is named, then `lethe deletions redrive`.',
  },
  OBJECTS_LEFT: {
    code: 'RECEIPT',
    when: 'Objects are still in the store after they were removed.',
    next: "Check the bucket's lock and permissions with `lethe doctor`, then `lethe deletions redrive`.",
  },
  OBJECTS_MISSING: {
    code: 'RECEIPT',
    when: 'Not one object was in the store where some were known.',
    next: 'Check that it is the right bucket. If they are gone, `lethe deletions redrive` accepts that.',
  },
  OPERATION_ENDED: {
    code: 'FAILED_PRECONDITION',
    when: 'An owner was called with an operation that has ended.',
    next: 'Begin another operation.',
  },
  OPERATION_IN_PROGRESS: {
    code: 'ABORTED',
    when: 'Another operation on the same thing is under way; `operation_id` names it.',
    next: 'Wait for it with `lethe deletions watch {operation_id}`; if it is STUCK, set it going again with `lethe deletions redrive {operation_id}`.',
  },
  OWNER_CHANGED: {
    code: 'FAILED_PRECONDITION',
    when: 'An owner answers from another data set than before.',
    next: 'Point the owner at the right database, or `lethe subjects confirm` the new one.',
  },
  OWNER_FAILED: {
    code: 'FAILED_PRECONDITION',
    when: 'An owner refused a purge and gave no reason.',
    next: "The owner's log has the cause.",
  },
  OWNER_STALLED: {
    code: 'FAILED_PRECONDITION',
    when: 'An owner kept answering without counting or removing anything.',
    next: "The owner's log has the cause.",
  },
  OWNER_UNKNOWN: {
    code: 'FAILED_PRECONDITION',
    when: 'The owner of the subject is not configured.',
    next: "Put it into RetentionService's LETHE_RETENTION_OWNERS, or `lethe subjects retire` what is gone.",
  },
  PARTICIPANT_CHANGED: {
    code: 'FAILED_PRECONDITION',
    when: 'A participant answers from another data set than before.',
    next: 'Point it at the right database, or `lethe participants confirm` the new one.',
  },
  PARTICIPANT_CONFIGURED: {
    code: 'FAILED_PRECONDITION',
    when: 'A participant that is configured cannot be retired.',
    next: "Take it out of RunService's configuration first.",
  },
  PARTICIPANT_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No participant has that name.',
    next: '`lethe participants list` shows those there are.',
  },
  PARTICIPANT_RETIRED: {
    code: 'RECEIPT',
    when: 'A participant was retired together with its data, so it was not asked.',
    next: 'Nothing: the deletion goes on without it.',
  },
  PARTICIPANT_UNKNOWN: {
    code: 'FAILED_PRECONDITION',
    when: 'A participant that may have data of the run is not configured.',
    next: "Put it into RunService's LETHE_PARTICIPANTS, or `lethe participants retire` it if its data is gone.",
  },
  PLAN_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No plan has that name.',
    next: '`lethe plans list` shows those there are; --create makes a new one.',
  },
  PURGE_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such purge.',
    next: '`lethe purges list` shows those there are.',
  },
  PURGE_NOT_HELD: {
    code: 'FAILED_PRECONDITION',
    when: 'The purge goes on by itself, has ended, or was never held.',
    next: '`lethe purges get` shows what is held.',
  },
  QC_FAILED: {
    code: 'RECEIPT',
    when: "A run's quality control found blocking issues; the run is compensated.",
    next: '`lethe runs steps RUN` shows what was undone.',
  },
  RATE_LIMITED: {
    code: 'RESOURCE_EXHAUSTED',
    when: 'The tenant calls more often than the service allows; RetryInfo says when to try again.',
    next: 'Wait a second and try again.',
  },
  REASON_REQUIRED: {
    code: 'INVALID_ARGUMENT',
    when: 'The call needs a reason, for the audit.',
    next: 'Give one with --reason.',
  },
  REQUEST_ID_REUSED: {
    code: 'INVALID_ARGUMENT',
    when: 'The request id was used before with another body.',
    next: 'Give another --request-id, or leave it out.',
  },
  RESOURCE_EXHAUSTED: {
    code: 'RESOURCE_EXHAUSTED',
    when: 'A message is larger than 4 MiB.',
    next: 'Try again later, or ask for less at a time.',
  },
  RETENTION_GUARD: {
    code: 'FAILED_PRECONDITION',
    when: 'The run is younger than runs must be to be purged; `purgeable_time` is when it may.',
    next: 'Wait until it is old enough, or as owner override the guard with --force.',
  },
  ROLE_TOO_LOW: {
    code: 'PERMISSION_DENIED',
    when: "The token's role may not do this; `role` is the one it takes.",
    next: 'Without --tenant you act as platform; inside a tenant --role chooses the role. A token has the role it was made with.',
  },
  ROWS_LEFT: {
    code: 'RECEIPT',
    when: 'Expired rows are still there after they were removed.',
    next: "The owner's log has the cause; the next purge tries again.",
  },
  ROWS_NOT_REMOVED: {
    code: 'RECEIPT',
    when: 'An owner found rows that its database did not let it remove.',
    next: "The owner's log has the cause: a trigger or a foreign key, as a rule.",
  },
  RPC_NOT_ALLOWED: {
    code: 'PERMISSION_DENIED',
    when: 'No rule allows anybody this RPC.',
    next: 'The service is older than this command line; `lethe doctor` shows the versions.',
  },
  RUN_DELETED: {
    code: 'FAILED_PRECONDITION',
    when: 'The run is hidden, and takes no new effects.',
    next: 'Bring the run back first with `lethe runs undelete`.',
  },
  RUN_DRIVEN_BY_ENGINE: {
    code: 'FAILED_PRECONDITION',
    when: 'Lethe does this run itself, so its caller records nothing of it.',
    next: 'Only runs of `lethe runs create` are recorded by their caller; `lethe runs cancel` stops this one.',
  },
  RUN_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No such run in the tenant, or it is hidden.',
    next: 'It may be hidden: --show-deleted shows it. `lethe deletions list --target RUN` shows what became of it.',
  },
  RUN_NOT_PARKED: {
    code: 'FAILED_PRECONDITION',
    when: 'The run is not parked, so there is nothing to retry.',
    next: '`lethe runs get` shows where it stands.',
  },
  RUN_NOT_RUNNING: {
    code: 'FAILED_PRECONDITION',
    when: 'The run has ended, or is being compensated.',
    next: '`lethe runs get` shows where it stands.',
  },
  RUN_NOT_TERMINAL: {
    code: 'FAILED_PRECONDITION',
    when: 'The run has not ended.',
    next: 'Cancel it first with `lethe runs cancel`, or wait for its end with `lethe runs watch`.',
  },
  SCOPE_MISSING: {
    code: 'PERMISSION_DENIED',
    when: 'The token lacks the scope of the call; `scope` names it.',
    next: 'The token lacks the scope; `lethe token --scope …` signs one that has it.',
  },
  SHARE_CEILING: {
    code: 'RECEIPT',
    when: "A sweep would remove a greater share of a tenant's objects than allowed.",
    next: 'Look at `lethe orphans --of TENANT`; if it is right, sweep with a higher --max-share.',
  },
  SHUTTING_DOWN: {
    code: 'UNAVAILABLE',
    when: 'The service is stopping.',
    next: 'Try again; another replica answers.',
  },
  STEP_COMPENSATED: {
    code: 'FAILED_PRECONDITION',
    when: 'The step was compensated, or its run purged, before this effect of it arrived.',
    next: 'Make it for another run, or for none.',
  },
  STEP_TRANSITION_ILLEGAL: {
    code: 'FAILED_PRECONDITION',
    when: 'The step cannot go from its state to that one.',
    next: '`lethe runs steps` shows where it stands.',
  },
  STEP_UNKNOWN: {
    code: 'UNAVAILABLE',
    when: 'The run was begun by another version of the workflow than this replica has.',
    next: 'Nothing: a replica of that version goes on with it. Keep one running until the run has ended.',
  },
  STORE_NOT_OURS: {
    code: 'FAILED_PRECONDITION',
    when: "The bucket's marker names another installation, or none.",
    next: 'The bucket belongs to another database; see deploy/README.md.',
  },
  STORE_MISBEHAVES: {
    code: 'FAILED_PRECONDITION',
    when: 'The object store does not page its listings as S3 does, so that nothing it tells can be relied on.',
    next: 'Update the object store, or use another; then redrive. The message says what it does.',
  },
  STORE_REFUSED: {
    code: 'FAILED_PRECONDITION',
    when: 'The object store refuses, and would again: no permission, a lock, no bucket; `code` is its own code.',
    next: 'Correct the permissions, the lock or LETHE_S3_BUCKET; then redrive what was parked.',
  },
  STREAM_INCOMPLETE: {
    code: 'UNAVAILABLE',
    when: 'A stream ended before its last message.',
    next: 'The connection broke: call again to go on watching.',
  },
  SUBJECT_CONFLICT: {
    code: 'FAILED_PRECONDITION',
    when: 'More than one owner lists the subject, so none of them is called.',
    next: 'Let one owner list it, and take it out of the others.',
  },
  SUBJECT_LISTED: {
    code: 'FAILED_PRECONDITION',
    when: 'A subject that an owner lists cannot be retired.',
    next: 'Its owner still lists it: take it out of the owner first.',
  },
  SUBJECT_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'No subject has that name.',
    next: '`lethe subjects list` shows those there are.',
  },
  SUBJECT_UNLISTED: {
    code: 'FAILED_PRECONDITION',
    when: 'The owner no longer lists the subject.',
    next: 'Let the owner list it again, or `lethe subjects retire` it.',
  },
  TASK_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'The job has no task of that name.',
    next: '`lethe jobs get` shows its tasks.',
  },
  TASK_TRANSITION_ILLEGAL: {
    code: 'FAILED_PRECONDITION',
    when: 'The task cannot go from its state to that one.',
    next: '`lethe jobs get` shows where it stands.',
  },
  TENANT_MISMATCH: {
    code: 'PERMISSION_DENIED',
    when: "The request names another tenant than the token's.",
    next: 'Act in that tenant with --tenant, or as platform without it.',
  },
  TENANT_MISSING: {
    code: 'PERMISSION_DENIED',
    when: 'The call is made in a tenant, and the token names none.',
    next: 'Say in which tenant you act: --tenant TENANT.',
  },
  TENANT_PLAN_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'The tenant has no plan.',
    next: '`lethe plans set PLAN --of TENANT` gives it one.',
  },
  TENANT_UNKNOWN: {
    code: 'NOT_FOUND',
    when: 'No plan, no policy and no data is known of the tenant.',
    next: '`lethe tenants list` shows the tenants that have a plan, `lethe tenants unplanned` the others.',
  },
  TENANT_WITHOUT_JOBS: {
    code: 'RECEIPT',
    when: 'A sweep found a tenant that has objects and not one job, as with a wrong database.',
    next: 'Check that it is the right database; if it is, sweep with --tenants-without-jobs.',
  },
  TOKEN_EXPIRED: {
    code: 'UNAUTHENTICATED',
    when: 'The time of the token is over.',
    next: 'Get a new token, or sign in again with `lethe login`.',
  },
  TOKEN_INVALID: {
    code: 'UNAUTHENTICATED',
    when: 'The token is not signed by a key that the trust file lets sign it, or is meant for another call.',
    next: 'The service does not trust the key, the issuer or the audience: check LETHE_TOKEN or --key against its trust file, and whether the profile is meant for it.',
  },
  TOKEN_MISMATCH: {
    code: 'PERMISSION_DENIED',
    when: 'A token that one service gave another is not for this call; `claim` says what differs.',
    next: 'Such a token is good for the call it was made for, and for no other.',
  },
  TOKEN_MISSING: {
    code: 'UNAUTHENTICATED',
    when: 'The call has no bearer token.',
    next: 'Set LETHE_TOKEN, or sign in with `lethe login`.',
  },
  TOO_MANY_MATCHES: {
    code: 'FAILED_PRECONDITION',
    when: 'A bulk deletion would match more than it may.',
    next: 'Narrow the filter, for instance with --since and --until.',
  },
  TOO_MANY_STEPS: {
    code: 'FAILED_PRECONDITION',
    when: 'The run has as many steps as a run may have; `most` says how many.',
    next: 'Record several actions as one step, or begin another run.',
  },
  TOO_MANY_STREAMS: {
    code: 'RESOURCE_EXHAUSTED',
    when: 'The caller, its tenant, or all callers together have too many streams open.',
    next: 'Close the streams that nobody reads, and open fewer at a time.',
  },
  UNAVAILABLE: {
    code: 'UNAVAILABLE',
    when: 'Nothing answers at the address of the service.',
    next: 'Check that it runs and that its address is right (LETHE_{SERVICE}_ADDRESS or the profile), and whether it speaks TLS (--tls-ca). `lethe doctor` looks at every service.',
  },
  UNIMPLEMENTED: {
    code: 'UNIMPLEMENTED',
    when: 'The service has no such RPC.',
    next: 'The service is older than this command line; `lethe doctor` shows the versions.',
  },
  UPLOAD_IN_PROGRESS: {
    code: 'RECEIPT',
    when: 'A deletion waits for an upload to the job to end.',
    next: 'Nothing: it goes on by itself when the upload ends or falls silent.',
  },
  WORKERS_LOST: {
    code: 'RECEIPT',
    when: "Several workers in a row crashed over one tenant's part of a purge.",
    next: "RetentionService's log has the cause; the next purge tries again.",
  },
  WORKER_LOST: {
    code: 'RECEIPT',
    when: 'Several workers in a row crashed over one step.',
    next: "RunService's log has the cause; then `lethe runs retry`, or `lethe deletions redrive`.",
  },
  WORKFLOW_NOT_FOUND: {
    code: 'NOT_FOUND',
    when: 'Lethe does no workflow of that name.',
    next: '`lethe runs create` opens a run of a workflow that is done elsewhere.',
  },
} as const satisfies Record<string, ReasonEntry>;

/** A reason that Lethe gives. */
export type Reason = keyof typeof REASONS;
