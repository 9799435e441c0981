/** One wrong field of a request. */
export interface WrongField {
  /** Its path, in the names of the request. */
  readonly field: string;
  readonly description: string;
}

/** The body of every error that the console answers over HTTP. */
export interface ErrorBody {
  readonly error: {
    /** The reason in lower case, e.g. `run_not_found`. */
    readonly code: string;
    /** One or more sentences for people: what is wrong and what to do. */
    readonly message: string;
    /** The reason as in the services' ErrorInfo, e.g. `RUN_NOT_FOUND`. */
    readonly reason?: string;
    /** Every variable of the message by its name. */
    readonly metadata?: Readonly<Record<string, string>>;
    /** All wrong fields. */
    readonly fields?: readonly WrongField[];
  };
}

/** Makes the body of an error from its reason, in UPPER_SNAKE. */
export function toErrorBody(
  reason: string,
  message: string,
  details: { metadata?: Readonly<Record<string, string>>; fields?: readonly WrongField[] } = {},
): ErrorBody {
  const { metadata = {}, fields = [] } = details;
  return {
    error: {
      code: reason.toLowerCase(),
      message,
      reason,
      ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
      ...(fields.length > 0 ? { fields } : {}),
    },
  };
}
