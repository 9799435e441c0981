import { CheckState } from '#gen/lethe/status/v1/status_service_pb.ts';
import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import type { DeleteChecksum, ObjectStore, StoreTraits } from '#libs/object-store/object-store.ts';
import type { ServiceCheck } from '#libs/service/status-handlers.ts';
import type { Part } from '#libs/service/watch-parts.ts';
import type { CheckStore } from '../../use-cases/check-store.ts';

/** What GetStatus tells of the object store: whether it answers, whose it is, and how the bucket is set up. */
export const makeStoreChecks = (store: ObjectStore, checkStore: CheckStore) => async (): Promise<ServiceCheck[]> => {
  try {
    await store.check();
  } catch (error) {
    const code = error instanceof DomainError ? error.metadata['code'] : undefined;
    if (code !== undefined) {
      const message = `The object store refuses JobService (${code}).`;
      return [failed('OBJECT_STORE', message, 'Check the bucket, its permissions, and the credentials of JobService.')];
    }
    const advice = 'Check that it runs, and LETHE_OBJECT_STORE and the credentials of JobService.';
    return [failed('OBJECT_STORE', 'The object store does not answer.', advice)];
  }
  const owned = await checkStore().then(
    () => ok('OBJECT_STORE', 'The object store answers and belongs to this installation.'),
    (error: unknown) =>
      hasReason(error, 'STORE_NOT_OURS')
        ? failed('OBJECT_STORE', error.message, 'Point JobService at its own bucket; no deletion is done until then.')
        : unknown('OBJECT_STORE', 'It could not be told whose the object store is.'),
  );
  const traits = await store.traits().catch(() => undefined);
  return [owned, ...(traits ? traitChecks(traits) : [])];
};

/** The object store as a part that the service stands on. */
export const makeStorePart = (store: ObjectStore, checkStore: CheckStore): Part => ({
  name: 'object store',
  async look() {
    try {
      await store.check();
      await checkStore();
      return undefined;
    } catch (error) {
      return error instanceof DomainError ? error.message : 'It does not answer.';
    }
  },
});

function traitChecks({ versioning, expiringRules, isLocked, deleteChecksum }: StoreTraits): ServiceCheck[] {
  const checks = [versioningCheck(versioning), lifecycleCheck(expiringRules), lockCheck(isLocked)];
  return deleteChecksum ? [...checks, checksumCheck(deleteChecksum)] : checks;
}

function checksumCheck(checksum: DeleteChecksum): ServiceCheck {
  const name = 'STORE_CHECKSUM';
  if (checksum === 'CRC32') return ok(name, 'Objects are removed with a CRC32 of the request.');
  return ok(name, 'Objects are removed with the Content-MD5 of the request, which this server demands.');
}

function versioningCheck(versioning: StoreTraits['versioning']): ServiceCheck {
  const name = 'BUCKET_VERSIONING';
  if (versioning === undefined) return unknown(name, 'The bucket does not tell whether it keeps versions.');
  if (versioning === 'OFF') return ok(name, 'The bucket keeps no versions.');
  return ok(name, `Versioning is ${versioning}; deletions remove every version.`);
}

function lifecycleCheck(rules: StoreTraits['expiringRules']): ServiceCheck {
  const name = 'BUCKET_LIFECYCLE';
  if (rules === undefined) return unknown(name, 'The bucket does not tell its lifecycle rules.');
  if (rules.length === 0) return ok(name, 'No lifecycle rule removes objects of Lethe that are in use.');
  return warning(
    name,
    `The bucket removes objects by itself (${rules.join(', ')}): artifacts go without a receipt.`,
    'Restrict the rules to other prefixes than tenants/ and lethe/, or to old versions.',
  );
}

function lockCheck(isLocked: StoreTraits['isLocked']): ServiceCheck {
  const name = 'BUCKET_LOCK';
  if (isLocked === undefined) return unknown(name, 'The bucket does not tell whether it locks objects.');
  if (!isLocked) return ok(name, 'New objects are not locked.');
  return failed(
    name,
    'The bucket locks new objects: they cannot be deleted before the lock ends.',
    "Remove the bucket's default retention; deletions of locked objects become STUCK.",
  );
}

const ok = (name: string, message: string): ServiceCheck => ({ name, state: CheckState.OK, message, advice: '' });
const unknown = (name: string, message: string): ServiceCheck => ({
  name,
  state: CheckState.UNKNOWN,
  message,
  advice: '',
});
const warning = (name: string, message: string, advice: string): ServiceCheck => ({
  name,
  state: CheckState.WARNING,
  message,
  advice,
});
const failed = (name: string, message: string, advice: string): ServiceCheck => ({
  name,
  state: CheckState.FAILED,
  message,
  advice,
});
