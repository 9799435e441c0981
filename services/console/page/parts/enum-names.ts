/** The constants of a generated enum, e.g. `RunState`. */
type GeneratedEnum = Readonly<Record<string, number>>;

/** The constant's name, e.g. `FAILED`; `UNSPECIFIED` for a number that is none of the enum's. */
export const nameOf = (constants: GeneratedEnum, value: number): string =>
  Object.entries(constants).find(([, number]) => number === value)?.[0] ?? 'UNSPECIFIED';

/** The constant with this name; undefined where there is none, as in an address that somebody typed. */
export const constantOf = <Constants extends GeneratedEnum>(
  constants: Constants,
  name: unknown,
): Constants[keyof Constants] | undefined =>
  typeof name === 'string' && name in constants ? (constants[name] as Constants[keyof Constants]) : undefined;

/** What a table says about a constant; for one that is newer than this page, what it says about UNSPECIFIED. */
export const entryOf = <Entry>(table: Readonly<Record<number, Entry>>, value: number): Entry =>
  (table[value] ?? table[0]) as Entry;
