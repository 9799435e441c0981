import {
  GetBucketLifecycleConfigurationCommand,
  GetBucketVersioningCommand,
  GetObjectLockConfigurationCommand,
  type LifecycleRule,
  type S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import type { StoreTraits } from './object-store.ts';

// The artifacts, and the marker of the installation.
const OWN = ['tenants/', 'lethe/'];

/** Reads how a bucket is set up. What it does not tell, or what the credentials may not ask, is undefined. */
export async function readBucketTraits(s3: S3Client, Bucket: string): Promise<StoreTraits> {
  const [versioning, expiringRules, isLocked] = await Promise.all([
    told(async () => {
      const { Status } = await s3.send(new GetBucketVersioningCommand({ Bucket }));
      if (Status === undefined) return 'OFF' as const;
      return Status === 'Enabled' ? ('ENABLED' as const) : ('SUSPENDED' as const);
    }),
    told(
      async () => {
        const { Rules = [] } = await s3.send(new GetBucketLifecycleConfigurationCommand({ Bucket }));
        return Rules.filter(expiresCurrent).map(({ ID }, at) => ID || `rule ${at + 1}`);
      },
      { NoSuchLifecycleConfiguration: [] },
    ),
    told(
      async () => {
        const { ObjectLockConfiguration } = await s3.send(new GetObjectLockConfigurationCommand({ Bucket }));
        return ObjectLockConfiguration?.Rule?.DefaultRetention !== undefined;
      },
      { ObjectLockConfigurationNotFoundError: false },
    ),
  ]);
  return { versioning, expiringRules, isLocked };
}

/**
 * Whether a rule removes objects of Lethe's that are in use, and not old versions, broken uploads or other objects only. One
 * that goes by tags or sizes counts as well: the store may have them from elsewhere.
 */
const expiresCurrent = ({ Status, Expiration, Filter, Prefix }: LifecycleRule): boolean => {
  const prefix = Filter?.And?.Prefix ?? Filter?.Prefix ?? Prefix ?? '';
  const expires = Expiration?.Days !== undefined || Expiration?.Date !== undefined;
  return Status === 'Enabled' && expires && OWN.some((own) => own.startsWith(prefix) || prefix.startsWith(own));
};

/** An answer; what the store's error code stands for; undefined for any other answer of the store but itself being down. */
async function told<T>(ask: () => Promise<T>, codes: Readonly<Record<string, T>> = {}): Promise<T | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof S3ServiceException)) throw error;
    return Object.hasOwn(codes, error.name) ? codes[error.name] : undefined;
  }
}
