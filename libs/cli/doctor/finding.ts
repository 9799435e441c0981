/** How what was looked at is: FAILED does not work, WARNING works and wants somebody, UNKNOWN could not be told. */
export type FindingState = 'OK' | 'WARNING' | 'FAILED' | 'UNKNOWN';

/** One thing that `lethe doctor` looked at. */
export interface Finding {
  readonly state: FindingState;
  /** A service, or what of this side: `sign-in`, `certificate`, `purges`. */
  readonly of: string;
  /** UPPER_SNAKE and stable. */
  readonly name: string;
  readonly message: string;
  /** What to do; empty where nothing is to be done. */
  readonly advice: string;
}

/** Makes findings about one thing. */
export const findingsOf = (of: string) => ({
  ok: (name: string, message: string): Finding => ({ state: 'OK', of, name, message, advice: '' }),
  warning: (name: string, message: string, advice: string): Finding => ({
    state: 'WARNING',
    of,
    name,
    message,
    advice,
  }),
  failed: (name: string, message: string, advice: string): Finding => ({ state: 'FAILED', of, name, message, advice }),
  unknown: (name: string, message: string, advice = ''): Finding => ({ state: 'UNKNOWN', of, name, message, advice }),
});
