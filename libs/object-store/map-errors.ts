import { DomainError } from '#libs/kernel/domain-error.ts';

/** What a store's error is for a caller; undefined: it is no error of the store. */
export type ToStoreError = (error: Error) => DomainError | undefined;

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

/** Runs one call to a store; what `toStoreError` knows becomes that, the rest stays. */
export async function mapErrors<T>(toStoreError: ToStoreError, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toCallersError(toStoreError, error);
  }
}

/** A body that the store gives out; an error of the store in the middle of it is mapped as in mapErrors. */
export async function* mapBodyErrors(
  toStoreError: ToStoreError,
  body: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  try {
    yield* body;
  } catch (error) {
    throw toCallersError(toStoreError, error);
  }
}

/** What a caller sees of an error in a call to a store: see mapErrors. */
export function toCallersError(toStoreError: ToStoreError, error: unknown): unknown {
  if (error instanceof BodyError) return error.cause;
  // An abort was asked for, and a TypeError is a bug of ours: neither says anything about the store.
  if (!(error instanceof Error) || error instanceof DomainError || error instanceof TypeError) return error;
  return (error.name !== 'AbortError' && toStoreError(error)) || error;
}
