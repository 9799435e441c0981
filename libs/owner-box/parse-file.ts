import { readFile } from 'node:fs/promises';
import { parseDocument } from 'yaml';

/** Which tables of a database age, as a file says. Column and table names are as they stand in the catalogue. */
export interface OwnerFile {
  /** The environment variable that holds the URL of the role that counts and purges. */
  readonly urlFrom: string;
  /** The one that holds the URL of a role that may create a schema; only `prepare` reads it. */
  readonly ownerUrlFrom: string | undefined;
  /** At least one, by name. */
  readonly subjects: readonly SubjectEntry[];
}

/** One table whose rows age. */
export interface SubjectEntry {
  readonly name: string;
  readonly resourceType: string;
  readonly table: TableName;
  readonly tenant: string;
  readonly instant: string;
  /** Whether the file says that an instant without a time zone is UTC. */
  readonly isUtc: boolean;
  /** What tells rows of one tenant apart, in the order of the index. */
  readonly id: readonly string[];
  readonly hasFloor: boolean;
  readonly dependents: readonly DependentEntry[];
}

/** Rows that go with a row. */
export interface DependentEntry {
  readonly resourceType: string;
  readonly table: TableName;
  /** Its column, and the row's column that it refers to. */
  readonly columns: readonly (readonly [own: string, referred: string])[];
}

/** A table by schema and name. */
export interface TableName {
  readonly schema: string;
  readonly name: string;
}

/** A file or a database that cannot be served, with all that is wrong. */
export class OwnerBoxError extends Error {
  override readonly name = 'OwnerBoxError';
  /** The file, the environment or the database. */
  readonly what: string;
  readonly problems: readonly string[];

  constructor(what: string, problems: readonly string[]) {
    super(`${what}: ${problems.join('; ')}`);
    this.what = what;
    this.problems = problems;
  }
}

const NAME = /^[a-z][a-z0-9_]{0,62}$/;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
// Letters of any script; what else could stand in a quoted name would have to be told apart from bindings.
const IDENTIFIER = /^[\p{L}\p{N}_$ -]{1,63}$/u;
const TABLE = /^([\p{L}\p{N}_$ -]{1,63}\.)?[\p{L}\p{N}_$ -]{1,63}$/u;
const NAME_RULE = 'must be 1 to 63 of a-z, 0-9 and _, beginning with a letter';
const MAX_SUBJECTS = 200;

/** Reads and checks an owner's file, YAML or JSON; an OwnerBoxError names every problem with it. */
export async function readOwnerFile(path: string): Promise<OwnerFile> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new OwnerBoxError(path, [`it cannot be read: ${(error as NodeJS.ErrnoException).code}`]);
  }
  return parseOwnerFile(path, text);
}

/** As readOwnerFile, for the text of a file that `path` names in the error. */
export function parseOwnerFile(path: string, text: string): OwnerFile {
  const document = parseDocument(text, { prettyErrors: true });
  if (document.errors.length > 0) {
    throw new OwnerBoxError(
      path,
      document.errors.map(({ message }) => String(message.split('\n')[0]).replace(/:$/, '')),
    );
  }
  const problems: string[] = [];
  const file = parseRoot(makeReader(problems, '', document.toJS()));
  if (problems.length > 0) throw new OwnerBoxError(path, problems);
  return file;
}

function parseRoot(root: Reader): OwnerFile {
  root.allow('database', 'subjects');
  const database = root.child('database');
  database.allow('url_from', 'owner_url_from');
  const subjects = root.list('subjects', { min: 1, max: MAX_SUBJECTS }).map(parseSubject);
  root.distinct('subjects', 'name', (subject) => subject.name, subjects);
  root.distinct('subjects', 'table', ({ table }) => table.name && `${table.schema}.${table.name}`, subjects);
  return {
    urlFrom: parseVariable(database, 'url_from') ?? '',
    ownerUrlFrom: database.has('owner_url_from') ? parseVariable(database, 'owner_url_from') : undefined,
    subjects: subjects.toSorted((a, b) => (a.name < b.name ? -1 : 1)),
  };
}

function parseSubject(entry: Reader): SubjectEntry {
  entry.allow('name', 'resource_type', 'table', 'tenant', 'instant', 'instant_zone', 'id', 'floor', 'dependents');
  const dependents = entry.list('dependents', { min: 0, max: 50 }).map(parseDependent);
  const resourceType = entry.text('resource_type', NAME, NAME_RULE);
  entry.distinct('dependents', 'resource_type', (type) => type, [
    ...dependents.map((dependent) => dependent.resourceType),
    resourceType,
  ]);
  const zone = entry.has('instant_zone') ? entry.text('instant_zone', /^UTC$/, 'can only be UTC') : undefined;
  return {
    name: entry.text('name', NAME, NAME_RULE),
    resourceType,
    table: parseTable(entry),
    tenant: entry.text('tenant', IDENTIFIER, 'must be a column'),
    instant: entry.text('instant', IDENTIFIER, 'must be a column'),
    isUtc: zone === 'UTC',
    id: entry.texts('id', IDENTIFIER, 'must be a column or a list of columns'),
    hasFloor: entry.boolean('floor', false),
    dependents,
  };
}

function parseDependent(entry: Reader): DependentEntry {
  entry.allow('table', 'resource_type', 'columns');
  return {
    resourceType: entry.text('resource_type', NAME, NAME_RULE),
    table: parseTable(entry),
    columns: entry.pairs('columns', IDENTIFIER, 'must name the columns and what they refer to, as `message_id: id`'),
  };
}

/** `table` or `schema.table`; without a schema it is in public. */
function parseTable(entry: Reader): TableName {
  const text = entry.text('table', TABLE, 'must be `table` or `schema.table`');
  const [first = '', second] = text.split('.');
  return second === undefined ? { schema: 'public', name: first } : { schema: first, name: second };
}

// Whatever stands there is not repeated: somebody may have written the URL itself, with its password.
const parseVariable = (database: Reader, key: string): string | undefined =>
  database.text(key, VARIABLE, 'must be the name of an environment variable that holds the URL, never the URL');

/** Reads one mapping of the file and reports what is wrong with it under its path. */
interface Reader {
  has(key: string): boolean;
  /** Reports keys that are none of these. */
  allow(...keys: readonly string[]): void;
  text(key: string, pattern: RegExp, rule: string): string;
  /** A text or a list of them, without repetitions. */
  texts(key: string, pattern: RegExp, rule: string): readonly string[];
  pairs(key: string, pattern: RegExp, rule: string): readonly (readonly [string, string])[];
  boolean(key: string, fallback: boolean): boolean;
  child(key: string): Reader;
  list(key: string, size: { min: number; max: number }): readonly Reader[];
  /** Reports what stands twice. */
  distinct<T>(key: string, what: string, of: (item: T) => string, items: readonly T[]): void;
}

function makeReader(problems: string[], path: string, value: unknown): Reader {
  const isMapping = typeof value === 'object' && value !== null && !Array.isArray(value);
  const entries = new Map(Object.entries(isMapping ? value : {}));
  const at = (key: string | number): string =>
    typeof key === 'number' ? `${path}[${key}]` : [path, key].filter((part) => part !== '').join('.');
  const report = (key: string, problem: string): void => void problems.push(`${at(key)} ${problem}`);
  if (!isMapping) problems.push(`${path === '' ? 'the file' : path} must be a mapping of keys to values`);
  const isText = (candidate: unknown, pattern: RegExp): candidate is string =>
    typeof candidate === 'string' && pattern.test(candidate);

  const texts = (key: string, pattern: RegExp, rule: string): readonly string[] => {
    const given = entries.get(key);
    const list = Array.isArray(given) ? given : [given];
    const isGood = list.length > 0 && list.every((item) => isText(item, pattern)) && new Set(list).size === list.length;
    if (isGood) return list;
    if (isMapping) report(key, given === undefined ? 'is required' : rule);
    return [];
  };
  return {
    has: (key) => entries.has(key),
    allow(...keys) {
      for (const key of entries.keys()) {
        if (!keys.includes(key)) report(key, `is unknown; the keys are ${keys.join(', ')}`);
      }
    },
    text(key, pattern, rule) {
      const given = entries.get(key);
      if (isText(given, pattern)) return given;
      if (isMapping) report(key, given === undefined || given === null ? 'is required' : rule);
      return '';
    },
    texts,
    pairs(key, pattern, rule) {
      const given = entries.get(key);
      const found = typeof given === 'object' && given !== null && !Array.isArray(given) ? Object.entries(given) : [];
      const isGood = found.length > 0 && found.every((pair) => pair.every((part) => isText(part, pattern)));
      if (isGood) return found as (readonly [string, string])[];
      if (isMapping) report(key, given === undefined ? 'is required' : rule);
      return [];
    },
    boolean(key, fallback) {
      const given = entries.get(key) ?? fallback;
      if (typeof given === 'boolean') return given;
      report(key, 'must be true or false');
      return fallback;
    },
    child(key) {
      if (entries.has(key)) return makeReader(problems, at(key), entries.get(key));
      if (isMapping) report(key, 'is required');
      return makeReader([], at(key), {});
    },
    list(key, { min, max }) {
      const given = entries.get(key) ?? [];
      if (Array.isArray(given) && given.length >= min && given.length <= max) {
        return given.map((item, index) => makeReader(problems, `${at(key)}[${index}]`, item));
      }
      if (isMapping) report(key, `must be a list of ${min} to ${max} entries`);
      return [];
    },
    distinct(key, what, of, items) {
      const known = new Set<string>();
      for (const item of items.map(of)) {
        if (item !== '' && known.has(item)) report(key, `have the ${what} ${item} twice`);
        known.add(item);
      }
    },
  };
}
