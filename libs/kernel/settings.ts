/** The environment of a process. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Reads settings and collects what is wrong with them, so that an operator sees every mistake at once. */
export interface SettingsReader {
  /** A text that must be there. */
  text(name: string, fallback?: string): string;
  /** One of some values. */
  oneOf<T extends string>(name: string, values: readonly T[], fallback: T): T;
  /** A whole number within bounds; `5d`, `1e9`, an empty text and NaN are none. */
  integer(name: string, bounds: { min: number; max: number }, fallback?: number): number;
  /** What the text means to `parse`, whose error's message becomes the problem. */
  parsed<T>(name: string, parse: (text: string) => T, fallback?: string): T;
  /** As parsed, and undefined where nothing is set. */
  optional<T>(name: string, parse: (text: string) => T): T | undefined;
}

/**
 * Reads a service's settings to a frozen object. Throws one Error that names every problem; the values, which may be
 * secret, are not in it.
 */
export function readSettings<T extends object>(env: Environment, read: (reader: SettingsReader) => T): Readonly<T> {
  const problems: string[] = [];
  const report = (name: string, problem: string): never => {
    problems.push(`${name} ${problem}`);
    return undefined as never;
  };
  const text = (name: string, fallback?: string): string => {
    const value = env[name] ?? fallback;
    return value === undefined || value === '' ? report(name, 'is required') : value;
  };
  const parsed = <T>(name: string, parse: (text: string) => T, fallback?: string): T => {
    const value = env[name] ?? fallback;
    if (value === undefined || value === '') return report(name, 'is required');
    try {
      return parse(value);
    } catch (error) {
      return report(name, error instanceof Error ? error.message : 'cannot be read');
    }
  };
  const settings = read({
    text,
    parsed,
    optional: (name, parse) => (env[name] === undefined ? undefined : parsed(name, parse)),
    oneOf(name, values, fallback) {
      const value = env[name] ?? fallback;
      return values.find((candidate) => candidate === value) ?? report(name, `must be one of ${values.join(', ')}`);
    },
    integer(name, { min, max }, fallback) {
      const value = env[name] ?? (fallback === undefined ? undefined : String(fallback));
      if (value === undefined) return report(name, 'is required');
      const isInBounds = /^\d{1,15}$/.test(value) && Number(value) >= min && Number(value) <= max;
      return isInBounds ? Number(value) : report(name, `must be a whole number from ${min} to ${max}`);
    },
  });
  if (problems.length > 0) throw new Error(`These settings are wrong: ${problems.join('; ')}.`);
  return Object.freeze(settings);
}

/** Host and port of an address that parseAddress has passed. A URL would leave out the port that its scheme implies. */
export function hostAndPort(address: string): { readonly host: string; readonly port: number } {
  const colon = address.lastIndexOf(':');
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
}
