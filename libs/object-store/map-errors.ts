import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';

/** What the caller's body threw, so that it is never taken for an error of the store, whatever code it carries. */
class BodyError extends Error {}

/** The caller's body, its errors marked as the caller's. mapErrors gives them back as they were. */
export async function* markErrors(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* body;
  } catch (cause) {
    throw new BodyError('the body broke off', { cause });
  }
}

/** Runs one call to a store; what `isStoreError` knows becomes UNAVAILABLE/DEPENDENCY_UNAVAILABLE, the rest stays. */
export async function mapErrors<T>(isStoreError: (error: Error) => boolean, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toCallersError(isStoreError, error);
  }
}

/** A body that the store gives out; an error of the store in the middle of it is mapped as in mapErrors. */
export async function* mapBodyErrors(
  isStoreError: (error: Error) => boolean,
  body: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  try {
    yield* body;
  } catch (error) {
    throw toCallersError(isStoreError, error);
  }
}

/** What a caller sees of an error in a call to a store: see mapErrors. */
export function toCallersError(isStoreError: (error: Error) => boolean, error: unknown): unknown {
  if (error instanceof BodyError) return error.cause;
  // An abort was asked for, and a TypeError is a bug of ours: neither says anything about the store.
  if (!(error instanceof Error) || error instanceof DomainError || error instanceof TypeError) return error;
  return error.name !== 'AbortError' && isStoreError(error) ? dependencyUnavailable('object store', error) : error;
}
