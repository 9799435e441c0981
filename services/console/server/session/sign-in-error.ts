/** Why somebody could not be signed in; its reason, status and message are for the person. */
export class SignInError extends Error {
  override readonly name = 'SignInError';
  readonly reason: SignInReason;

  constructor(reason: SignInReason, message: string, cause?: unknown) {
    super(message, { cause });
    this.reason = reason;
  }
}

/** The status of each reason. */
export const STATUS_OF_REASON = {
  /** No provider is configured. */
  SIGN_IN_OFF: 404,
  /** The answer of the provider does not belong to a sign-in that this browser began in the last ten minutes. */
  SIGN_IN_UNKNOWN: 400,
  /** The provider did not let the person in. */
  SIGN_IN_REFUSED: 403,
  /** The provider's answer did not pass a check: code, verifier, nonce or signature. */
  SIGN_IN_FAILED: 400,
  /** The provider's access token is no JWT, has no expiry, or is expired. */
  TOKEN_UNUSABLE: 502,
  /** The tokens do not fit into a cookie. */
  SESSION_TOO_LARGE: 502,
  /** The provider does not answer. */
  PROVIDER_UNAVAILABLE: 503,
} as const;

/** One of STATUS_OF_REASON. */
export type SignInReason = keyof typeof STATUS_OF_REASON;
