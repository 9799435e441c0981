/** A mistake in how a command was called, or something it needs that is not there: nothing was sent. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
