import type { DescMessage, Message } from '@bufbuild/protobuf';

/** A value that an answer held, as its field has it. */
export type KnownValue = string | bigint | number | Uint8Array;

/** What one answer held, by the name under which a request asks for it: the `id` of a Job is a `job_id`. */
export type AnswerValues = ReadonlyMap<string, KnownValue>;

/** What the answers so far held, so that requests are about things that exist. */
export interface KnownValues {
  learn(schema: DescMessage, answer: Message): void;
  /** Of a few answers, the one that knows most of these fields. */
  answerFor(names: readonly string[], random: () => number): AnswerValues;
  /** Anything that any answer had under the name; undefined where there was none. */
  pick(name: string, random: () => number): KnownValue | undefined;
}

const KEPT_ANSWERS = 300;
const KEPT_OF_NAME = 60;
const LOOKED_AT = 6;

/** Knows nothing yet. */
export function makeKnownValues(): KnownValues {
  const answers: AnswerValues[] = [];
  const byName = new Map<string, KnownValue[]>();
  const one = <T>(list: readonly T[], random: () => number): T | undefined => list[Math.floor(random() * list.length)];
  return {
    learn(schema, answer) {
      const found = new Map<string, KnownValue>();
      collect(schema, answer, found);
      if (found.size === 0) return;
      answers.push(found);
      if (answers.length > KEPT_ANSWERS) answers.shift();
      for (const [name, value] of found) {
        const values = byName.get(name) ?? [];
        byName.set(name, values);
        values.push(value);
        if (values.length > KEPT_OF_NAME) values.shift();
      }
    },
    answerFor(names, random) {
      let best: AnswerValues = new Map();
      let most = 0;
      for (let looked = 0; looked < LOOKED_AT; looked += 1) {
        const answer = one(answers, random);
        const known = answer === undefined ? 0 : names.filter((name) => answer.has(name)).length;
        if (answer && known > most) [best, most] = [answer, known];
      }
      return best;
    },
    pick: (name, random) => one(byName.get(name) ?? [], random),
  };
}

/** The values of a message and of the first item of each of its lists. */
function collect(schema: DescMessage, message: Message, into: Map<string, KnownValue>): void {
  for (const field of schema.fields) {
    const holder = message as unknown as Readonly<Record<string, unknown>>;
    const value = field.oneof
      ? oneofValue(holder[field.oneof.localName], field.localName)
      : (Array.isArray(holder[field.localName])
          ? (holder[field.localName] as unknown[])
          : [holder[field.localName]])[0];
    if (value === undefined || value === null || value === '') continue;
    if (field.message) {
      const isOwn = field.message.typeName.startsWith('lethe.');
      if (isOwn && typeof value === 'object' && field.fieldKind !== 'map')
        collect(field.message, value as Message, into);
    } else if (isKnowable(value)) {
      for (const name of namesInRequests(schema, field.name)) if (!into.has(name)) into.set(name, value);
    }
  }
}

const oneofValue = (chosen: unknown, localName: string): unknown => {
  const { case: name, value } = (chosen ?? {}) as { case?: string; value?: unknown };
  return name === localName ? value : undefined;
};

const isKnowable = (value: unknown): value is KnownValue =>
  ['string', 'bigint', 'number'].includes(typeof value) || value instanceof Uint8Array;

function namesInRequests(schema: DescMessage, field: string): readonly string[] {
  return field === 'id'
    ? [`${toSnake(schema.name)}_id`]
    : field === 'name'
      ? [`${toSnake(schema.name)}_name`, field]
      : [field];
}

/** `BulkDeletion` as `bulk_deletion`. */
export const toSnake = (name: string): string => name.replace(/(?<!^)[A-Z]/g, (letter) => `_${letter}`).toLowerCase();
