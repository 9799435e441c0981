import { isDeleteObjects, repeatsItsPage, type S3Quirk, type S3Refusal } from '#test/support/s3-front.ts';
import { type Expected, type Fault, GOOD } from './fault.ts';

const behaving = (quirk: () => S3Quirk): Pick<Fault, 'on' | 'apply' | 'undo' | 'needs' | 'all' | 'watch'> => ({
  on: 'object store',
  apply: async ({ objects }) => objects?.behave(quirk()),
  undo: async ({ openAll }) => openAll(),
  needs: "Ceph's gateway",
  all: GOOD,
  watch: 'goes on',
});

const refusing = (refusal: S3Refusal | 'hang up') => behaving(() => ({ refuse: () => refusal }));

/** Uploads and downloads are refused, and why is told. */
const away = (outcome: string, says: string): { readonly job: Expected } => ({
  job: {
    read: outcome,
    write: outcome,
    ready: [200, 'object store', says],
    metric: ['part down', 'object store'],
  },
});

/** Each key is told to have failed, in an answer that is 200. */
const refusesKeys: S3Quirk = {
  alter: (text, call) =>
    isDeleteObjects(call)
      ? text.replaceAll(
          /<Deleted>.*?<Key>(.*?)<\/Key>.*?<\/Deleted>/gs,
          '<Error><Key>$1</Key><Code>InternalError</Code><Message>again</Message></Error>',
        )
      : text,
};

/** What befalls the object store of JobService; its read is a download then, its write an upload. */
export const OBJECT_STORE_FAULTS: readonly Fault[] = [
  {
    name: 'it answers 503 SlowDown',
    ...refusing({ status: 503, code: 'SlowDown' }),
    of: away('UNAVAILABLE SlowDown', 'SlowDown'),
  },
  {
    name: 'connections are reset',
    ...refusing('hang up'),
    of: away('UNAVAILABLE DEPENDENCY_UNAVAILABLE', 'unavailable'),
  },
  {
    name: 'the secret is wrong: 403 SignatureDoesNotMatch',
    ...refusing({ status: 403, code: 'SignatureDoesNotMatch' }),
    of: away('UNAVAILABLE SignatureDoesNotMatch', 'SignatureDoesNotMatch'),
  },
  {
    name: 'the bucket is missing',
    ...refusing({ status: 404, code: 'NoSuchBucket' }),
    of: away('FAILED_PRECONDITION NoSuchBucket', 'NoSuchBucket'),
    parks: 'STORE_REFUSED',
  },
  { name: 'DeleteObjects is 200 with an error for each key', ...behaving(() => refusesKeys) },
  { name: 'it is slow: each call takes 300 ms more', ...behaving(() => ({ delayMs: () => 300 })) },
  { name: 'a listing repeats its page', ...behaving(repeatsItsPage) },
];
