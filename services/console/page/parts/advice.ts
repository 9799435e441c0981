import { Code } from '@connectrpc/connect';

// What a person can do about each reason that a service refuses with.
const BY_REASON: Readonly<Record<string, string>> = {
  TOKEN_MISSING: 'Sign in.',
  TOKEN_INVALID: 'Sign out and in again. If that does not help, ask an operator whether your provider is trusted.',
  TOKEN_EXPIRED: 'Sign in again.',
  TENANT_MISSING: 'Sign in with an account that belongs to a tenant.',
  ROLE_TOO_LOW: 'Ask an admin of your tenant to do it, or to give you the role.',
  SCOPE_MISSING: 'Ask an admin of your tenant for the scope, then sign in again.',
  RATE_LIMITED: 'Wait a moment, then try again.',
  TOO_MANY_STREAMS: 'Close other windows of the console, then try again.',
  DEPENDENCY_UNAVAILABLE:
    'Nothing was changed. Try again in a moment; if it goes on, an operator should look at that service.',
  RUN_NOT_FOUND: 'It may have been purged: look for its receipt under Deletions.',
  JOB_NOT_FOUND: 'It may have been deleted: look for its receipt under Deletions.',
  DELETION_NOT_FOUND: 'Check the id. Receipts are kept for a limited time.',
  BULK_DELETION_NOT_FOUND: 'Check the id. Receipts are kept for a limited time.',
  RUN_NOT_TERMINAL: 'Cancel the run, or wait until it has ended, then try again.',
  JOB_NOT_TERMINAL: 'Cancel the job, or wait until it has ended, then try again.',
  RUN_NOT_RUNNING: 'Reload: the run has ended meanwhile.',
  RUN_NOT_PARKED: 'Reload: the run has moved on meanwhile.',
  RUN_DELETED: 'Undelete the run first.',
  RETENTION_GUARD: 'Wait until the age guard lets it go, or have an owner purge it with force.',
  OPERATION_IN_PROGRESS: 'Wait until the operation under way has ended; Deletions shows how far it is.',
  ETAG_MISMATCH: 'Somebody changed it meanwhile. Reload, look at what is there now, and try again.',
  COUNT_CHANGED: 'More match than you saw. Preview again and look at the new number.',
  TOO_MANY_MATCHES: 'Narrow the filter, for example by the time of creation.',
  FILTER_REQUIRED: 'Set at least one filter.',
  REASON_REQUIRED: 'Give a reason.',
  DELETION_FINISHED: 'Reload: it has ended meanwhile.',
  BULK_DELETION_FINISHED: 'Reload: it has ended meanwhile.',
  PARTICIPANT_UNKNOWN:
    'An operator has to configure that participant again, or to retire it, then redrive the deletion.',
  PARTICIPANT_CHANGED: 'An operator has to confirm the data set of that participant, then redrive the deletion.',
  PARTICIPANT_UNVERIFIED: 'Redrive it once the participant answers its read-back.',
  STORE_REFUSED: 'An operator has to correct the permissions, the lock or the bucket, then redrive the deletion.',
  STORE_MISBEHAVES: 'An operator has to update the object store or use another, then redrive the deletion.',
  ATTEMPTS_EXHAUSTED: 'Find out why the participant fails, then redrive the deletion.',
  INTERNAL: 'Give the id in the message to an operator, who finds it in the log.',
};

const BY_CODE: Readonly<Partial<Record<Code, string>>> = {
  [Code.Unavailable]: 'Try again in a moment. If it goes on, an operator should look at the service.',
  [Code.DeadlineExceeded]: 'Try again in a moment.',
  [Code.Unauthenticated]: 'Sign in again.',
  [Code.PermissionDenied]: 'Ask an admin of your tenant.',
  [Code.InvalidArgument]: 'Correct the fields named above.',
};

/** What to do about an error, by its reason or else by its code; undefined where nothing more helpful can be said. */
export const adviceOf = (reason: string | undefined, code?: Code): string | undefined =>
  (reason && BY_REASON[reason]) || (code === undefined ? undefined : BY_CODE[code]);
