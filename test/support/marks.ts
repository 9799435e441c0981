import { type DescField, type DescMessage, type DescMethod, ScalarType } from '@bufbuild/protobuf';
import pg from 'pg';

/** A text that stands nowhere else: it fits every field that takes a name in lower case. */
export const MARK = /zqm[0-9a-z]{4}q/g;

/** Gives marks, and remembers which field each was put into. */
export class Marks {
  // No two of a process are the same.
  static #next = 0;
  readonly #of = new Map<string, { readonly kind: string; readonly field: string }>();

  /** A new mark for a field of an RPC, as `CreateJob.display_name`, in what `kind` of deletion ends. */
  put(kind: string, field: string): string {
    const mark = `zqm${Marks.#next.toString(36).padStart(4, '0')}q`;
    Marks.#next += 1;
    this.#of.set(mark, { kind, field });
    return mark;
  }

  /** The fields that marks were put into. */
  fields(): ReadonlySet<string> {
    return new Set([...this.#of.values()].map(({ field }) => field));
  }

  /** Whether it is one of these, and not another test's. */
  isKnown(mark: string): boolean {
    return this.#of.has(mark);
  }

  of(mark: string): { readonly kind: string; readonly field: string } {
    const known = this.#of.get(mark);
    if (!known) throw new Error(`nobody put the mark ${mark}`);
    return known;
  }
}

/** A field of a request that can hold text: its path below `Service/Method`, and what it is. */
export interface TextField {
  readonly path: string;
  readonly kind: 'text' | 'bytes' | 'json';
}

/** Every field of an RPC's request that can hold text, nested ones included. */
export function textFieldsOf(method: DescMethod): readonly TextField[] {
  const found: TextField[] = [];
  const walk = (message: DescMessage, path: readonly string[], depth: number): void => {
    if (depth > 8) throw new Error(`${message.typeName} is nested too deeply to be walked`);
    for (const field of message.fields) {
      const at = [...path, field.name];
      const nested = messageOf(field);
      if (nested?.typeName === 'google.protobuf.Struct') found.push({ path: at.join('.'), kind: 'json' });
      else if (nested?.typeName.startsWith('google.protobuf.')) continue;
      else if (nested) walk(nested, at, depth + 1);
      else if (scalarOf(field) === ScalarType.STRING) found.push({ path: at.join('.'), kind: 'text' });
      else if (scalarOf(field) === ScalarType.BYTES) found.push({ path: at.join('.'), kind: 'bytes' });
    }
  };
  walk(method.input, [], 0);
  return found;
}

function messageOf(field: DescField): DescMessage | undefined {
  if (field.fieldKind === 'message') return field.message;
  if (field.fieldKind === 'list' && field.listKind === 'message') return field.message;
  if (field.fieldKind === 'map') throw new Error(`${field.toString()} is a map, which nobody walks yet`);
  return undefined;
}

function scalarOf(field: DescField): ScalarType | undefined {
  if (field.fieldKind === 'scalar') return field.scalar;
  return field.fieldKind === 'list' && field.listKind === 'scalar' ? field.scalar : undefined;
}

/** Every mark in a database, with the columns in which it stands, as `table.column`; partitions count as their table. */
export async function marksInDatabase(superuserUrl: string): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const client = new pg.Client({ connectionString: superuserUrl });
  await client.connect();
  try {
    const { rows: columns } = await client.query<{ table: string; column: string; type: string }>(
      `select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as table, a.attname as column, t.typname as type
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
         join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         join pg_type t on t.oid = a.atttypid
       where c.relkind in ('r', 'p') and not c.relispartition
         and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'`,
    );
    const found = new Map<string, Set<string>>();
    for (const { table, column, type } of columns) {
      const shown = type === 'bytea' ? `encode("${column}", 'escape')` : `"${column}"::text`;
      const { rows } = await client.query<{ mark: string }>(
        `select distinct m[1] as mark from ${table}, regexp_matches(lower(${shown}), '(${MARK.source})', 'g') m`,
      );
      for (const { mark } of rows) {
        const places = found.get(mark) ?? new Set();
        found.set(mark, places.add(`${table.replace(/^public\./, '')}.${column}`));
      }
    }
    return found;
  } finally {
    await client.end();
  }
}
