import { globSync, readFileSync } from 'node:fs';

/** A text of SQL as it stands in the source, with what it interpolates by a constant's name put in. */
export interface SqlText {
  /** Where it stands, such as `libs/owner/statements.ts:12`. */
  readonly at: string;
  /** A whole statement, or a piece of which the source makes one: a common table expression, or what an update sets. */
  readonly text: string;
  /** Whether connections prepare it under a name. */
  readonly isNamed: boolean;
}

interface Literal {
  readonly line: number;
  readonly text: string;
  /** The property or constant that it is the value of. */
  readonly key: string | undefined;
  /** The braces that it stands in. */
  readonly block: number;
}

const ROOT = new URL('../../', import.meta.url).pathname;
const FILES = [
  'services/*/adapters/postgres/*.ts',
  'libs/{audit,bulk-deletion,durable,owner,participant,postgres}/*.ts',
];
const SQL =
  /^\s*(?:(?:with|select|insert|update|delete)\s|[\w${}()]+ as (?:materialized )?\(|(?:\$\{[A-Z_]+\},\s*)?\w+ = )/i;
const KEY = /(?:([\w$]+)\s*:|const\s+([\w$]+)(?:\s*:[^=]*)?\s*=(?:\s*\([^)]*\)(?:\s*:\s*[\w[\]]+)?\s*=>)?)\s*$/;
const MAY_PRECEDE_PATTERN = /(?:^|[(,=:[!&|?{};>]|return)\s*$/;
const MOST_NESTED = 5;

/** The files of the services and of the libraries that ask the database. */
export const sqlSources = (): readonly { readonly file: string; readonly source: string }[] =>
  globSync(FILES, { cwd: ROOT })
    .filter((file) => !file.includes('.test.'))
    .map((file) => ({ file, source: readFileSync(`${ROOT}${file}`, 'utf8') }));

/** The SQL in them. */
export function sqlTexts(): readonly SqlText[] {
  const sources = sqlSources().map(({ file, source }) => ({ file, ...literalsOf(source) }));
  const constants = new Map<string, string>();
  for (const { file, literals } of sources) {
    for (const { key, text } of literals) if (key !== undefined) constants.set(`${file} ${key}`, text);
  }
  return sources.flatMap(({ file, literals, named }) => {
    const lookUp = (name: string): string | undefined =>
      constants.get(`${file} ${name}`) ??
      (/^[A-Z]/.test(name) ? [...constants].find(([key]) => key.endsWith(` ${name}`))?.[1] : undefined);
    const resolve = (text: string, depth = 0): string =>
      text.replaceAll(/\$\{([A-Za-z_]{3,})(?:\([\w', ]*\))?\}/g, (whole, name: string) => {
        const value = lookUp(name);
        return value === undefined || depth === MOST_NESTED ? whole : resolve(value, depth + 1);
      });
    return literals
      .filter(({ text }) => SQL.test(text))
      .map(({ line, text, key, block }) => ({
        at: `${file}:${line}`,
        text: resolve(text),
        isNamed: named.has(block) && key === 'text',
      }));
  });
}

/** The texts in a source, and the braces that have a `name` beside them. */
function literalsOf(source: string): { literals: readonly Literal[]; named: ReadonlySet<number> } {
  const literals: Literal[] = [];
  const named = new Set<number>();
  let blocks = 0;
  const read = (start: number, isOver: (char: string) => boolean, outer: number): number => {
    let at = start;
    while (at < source.length) {
      const char = source[at] ?? '';
      if (isOver(char)) return at + 1;
      if (source.startsWith('//', at)) at = indexOr(source, '\n', at);
      else if (source.startsWith('/*', at)) at = indexOr(source, '*/', at) + 2;
      else if (char === '/' && MAY_PRECEDE_PATTERN.test(source.slice(Math.max(0, at - 20), at)))
        at = endOfPattern(source, at);
      else if (char === '{') {
        blocks += 1;
        at = read(at + 1, (next) => next === '}', blocks);
      } else if (char === "'" || char === '"' || char === '`') {
        const [, property, constant] = KEY.exec(source.slice(Math.max(0, at - 200), at)) ?? [];
        const end = endOfLiteral(at, char);
        const line = source.slice(0, at).split('\n').length;
        literals.push({ line, text: source.slice(at + 1, end - 1), key: property ?? constant, block: outer });
        at = end;
      } else {
        if (source.startsWith('name:', at) && !/[\w.]/.test(source[at - 1] ?? '')) named.add(outer);
        at += 1;
      }
    }
    return at;
  };
  const endOfLiteral = (start: number, quote: string): number => {
    let at = start + 1;
    while (at < source.length && source[at] !== quote) {
      if (source[at] === '\\') at += 2;
      else if (quote === '`' && source.startsWith('${', at)) {
        blocks += 1;
        at = read(at + 2, (next) => next === '}', blocks);
      } else at += 1;
    }
    return at + 1;
  };
  read(0, () => false, 0);
  return { literals, named };
}

function endOfPattern(source: string, start: number): number {
  let isInClass = false;
  for (let at = start + 1; at < source.length; at += 1) {
    const char = source[at];
    if (char === '\\') at += 1;
    else if (char === '[') isInClass = true;
    else if (char === ']') isInClass = false;
    else if (char === '/' && !isInClass) return at + 1;
  }
  return source.length;
}

const indexOr = (source: string, what: string, from: number): number => {
  const found = source.indexOf(what, from);
  return found === -1 ? source.length : found;
};
