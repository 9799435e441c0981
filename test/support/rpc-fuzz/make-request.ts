import { type DescField, type DescMessage, type DescMethod, type DescOneof, ScalarType } from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { newId } from '#libs/kernel/id.ts';
import { type AnswerValues, type KnownValue, type KnownValues, toSnake } from './known-values.ts';

type Random = () => number;

/** How far a request is from what a client would send. */
export const MOODS = ['plausible', 'some edges', 'edges', 'malformed'] as const;

/** One of MOODS. */
export type Mood = (typeof MOODS)[number];

// Of a hundred requests.
const SHARE: Readonly<Record<Mood, number>> = { plausible: 45, 'some edges': 30, edges: 12, malformed: 13 };
const EDGE_CHANCE: Readonly<Record<Mood, number>> = { plausible: 0, 'some edges': 0.12, edges: 0.7, malformed: 0.05 };

/** A mood, as often as its share says. */
export function chooseMood(random: Random): Mood {
  const at = random() * 100;
  let upTo = 0;
  return (
    MOODS.find((mood) => {
      upTo += SHARE[mood];
      return at < upTo;
    }) ?? 'plausible'
  );
}

/** What a request is made for. */
export interface Wanted {
  readonly service: string;
  readonly method: DescMethod;
  readonly mood: Mood;
  /** Which message of a client's stream it is, from 0. */
  readonly at: number;
}

/** The request on the wire, written field by field, so that it can hold what no message object could. */
export function makeRequest(wanted: Wanted, known: KnownValues, random: Random): Buffer {
  const { mood, method } = wanted;
  const answer = random() < 0.8 ? known.answerFor(namesOf(method.input), random) : new Map();
  const edgeChance = EDGE_CHANCE[mood];
  const bytes = writeMessage(method.input, { ...wanted, random, known, answer, edgeChance, depth: 0 }).finish();
  return mood === 'malformed' ? spoil(Buffer.from(bytes), random) : Buffer.from(bytes);
}

/** The same request for the page that comes after. */
export function withPageToken(method: DescMethod, request: Buffer, pageToken: string): Buffer {
  const field = method.input.fields.find(({ name }) => name === 'page_token') as DescField;
  // The last of a field is the one that counts.
  const writer = new BinaryWriter().tag(field.number, WireType.LengthDelimited).string(pageToken);
  return Buffer.concat([request, writer.finish()]);
}

interface Making extends Wanted {
  readonly random: Random;
  readonly known: KnownValues;
  /** The answer that the request follows on. */
  readonly answer: AnswerValues;
  readonly edgeChance: number;
  readonly depth: number;
}

const namesOf = (schema: DescMessage): string[] =>
  schema.fields.flatMap((field) => [
    field.name,
    ...(field.message?.typeName.startsWith('lethe.') && field.fieldKind === 'message'
      ? field.message.fields.map(({ name }) => name)
      : []),
  ]);

const oneOf = <T>(random: Random, items: readonly [T, ...T[]]): T =>
  items[Math.floor(random() * items.length)] ?? items[0];

const FIELD_CHANCE = 0.75;
// What a request is about; without it there is nothing to see.
const ALWAYS =
  /(_id|^reason|name|^rule|^filter|^key|^step|^title|^state|^workflow|^id|^lease_token|^subject|^mode|^kind|^action|_days|^latest_cutoff_time|^decision)$/;
// Where a plausible request has it seldom: it narrows, or refuses, what would otherwise happen.
const SELDOM =
  /^(etag|page_token|request_id|validate_only|force|no_plan|expected_count|m(in|ax)_.*_time|(after|before)_time|tenants_without_jobs|cursor|all_tenants|subjects|data_id)$/;

function writeMessage(schema: DescMessage, making: Making): BinaryWriter {
  const { random, edgeChance, depth } = making;
  const writer = new BinaryWriter();
  const special = SPECIAL[schema.typeName];
  if (special) return special(making);
  // A stream begins with what tells what it is about.
  const chosen = ({ fields }: DescOneof): DescField =>
    making.at === 0 ? (fields[0] as DescField) : oneOf(random, fields as [DescField]);
  const oneofs = new Map(schema.oneofs.map((each) => [each.name, chosen(each)]));
  for (const field of schema.fields) {
    const isEdge = random() < edgeChance;
    const chance = ALWAYS.test(field.name) ? 0.97 : SELDOM.test(field.name) ? 0.15 : FIELD_CHANCE;
    if (random() > chance && !isEdge) continue;
    // Both parts of a oneof at once is something that only bytes can have.
    if (field.oneof && oneofs.get(field.oneof.name) !== field && !isEdge) continue;
    if (depth > 4) continue;
    if (field.fieldKind === 'map') continue;
    const times =
      field.fieldKind !== 'list' ? 1 : isEdge ? oneOf(random, [0, 1, 2, 101, 2_000]) : oneOf(random, [1, 2, 3]);
    for (let written = 0; written < times; written += 1) writeField(writer, field, isEdge, making);
  }
  return writer;
}

function writeField(writer: BinaryWriter, field: DescField, isEdge: boolean, making: Making): void {
  const { random } = making;
  if (field.message) {
    writer.tag(field.number, WireType.LengthDelimited);
    writer.bytes(
      isEdge && random() < 0.2
        ? new Uint8Array()
        : writeMessage(field.message, { ...making, depth: making.depth + 1 }).finish(),
    );
  } else if (field.enum) {
    const values = field.enum.values.map(({ number }) => number).filter((number) => number !== 0) as [number];
    const value = isEdge ? oneOf(random, [0, -1, 99, 2_147_483_647, -2_147_483_648]) : oneOf(random, values);
    writer.tag(field.number, WireType.Varint).int32(value);
  } else if (field.scalar !== undefined) writeScalar(writer, field, field.scalar, isEdge, making);
}

function writeScalar(
  writer: BinaryWriter,
  field: DescField,
  scalar: ScalarType,
  isEdge: boolean,
  making: Making,
): void {
  const { random } = making;
  const known = isEdge ? undefined : knownValue(field.name, making);
  switch (scalar) {
    case ScalarType.STRING:
      writer.tag(field.number, WireType.LengthDelimited);
      if (isEdge) writer.bytes(edgeText(making));
      else writer.string(typeof known === 'string' ? known : plausibleText(field.name, making));
      return;
    case ScalarType.BYTES:
      writer.tag(field.number, WireType.LengthDelimited);
      if (known instanceof Uint8Array) writer.bytes(known);
      else
        writer.bytes(Buffer.alloc(isEdge ? oneOf(random, [0, 1, 65_536, 1_048_576]) : 32, Math.floor(random() * 256)));
      return;
    case ScalarType.BOOL:
      writer.tag(field.number, WireType.Varint).uint64(isEdge ? MAX_UINT64 : random() < 0.5 ? 1n : 0n);
      return;
    case ScalarType.INT32: {
      const value = isEdge
        ? oneOf(random, INT32_EDGES)
        : typeof known === 'number'
          ? known
          : 1 + Math.floor(random() * 40);
      writer.tag(field.number, WireType.Varint).int32(value);
      return;
    }
    case ScalarType.INT64: {
      const value = isEdge
        ? oneOf(random, INT64_EDGES)
        : typeof known === 'bigint'
          ? known
          : BigInt(Math.floor(random() * 200));
      writer.tag(field.number, WireType.Varint).int64(value);
      return;
    }
    default:
      throw new Error(`${field} has a type that the fuzzer does not write yet: ${ScalarType[scalar]}`);
  }
}

const MAX_UINT64 = 18_446_744_073_709_551_615n;
const INT32_EDGES = [0, 1, -1, 101, 1_001, 100_001, 2_147_483_647, -2_147_483_648] as const;
const INT64_EDGES = [0n, 1n, -1n, 2n ** 31n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)] as const;

function knownValue(name: string, { method, answer, known, random }: Making): KnownValue | undefined {
  if (FRESH.has(name) && random() < 0.8) return undefined;
  // The name in GetPlan is a plan's.
  const of = name === 'name' ? `${toSnake(method.name).replace(/^[a-z]+_/, '')}_name` : name;
  return answer.get(of) ?? known.pick(of, random);
}

// What a request brings itself.
const FRESH: ReadonlySet<string> = new Set(['request_id', 'workflow', 'step', 'title', 'error', 'page_size']);

// Where a word of a request has to be one of few, or is nobody's answer yet.
const PLAUSIBLE_TEXTS: Readonly<Record<string, readonly [string, ...string[]]>> = {
  tenant_id: ['acme', 'globex'],
  tenant_ids: ['acme', 'globex'],
  workflow: ['client_to_delivery', 'call-review'],
  participants: ['job', 'incident'],
  task_names: ['transcribe', 'align'],
  task_name: ['transcribe', 'align'],
  content_type: ['text/plain', 'audio/wav'],
  subject: ['drift_checks', 'incident_payloads', 'executions'],
  subjects: ['drift_checks', 'incident_payloads', 'executions'],
  first_day: ['2026-11-01'],
  last_day: ['2026-11-30'],
  plan_name: ['FREE', 'PRO'],
  plan: ['FREE'],
  step: ['draft'],
  etag: [''],
  page_token: [''],
};

// What each participant can do as a step.
const ACTIONS: Readonly<Record<string, string>> = { job: 'create-job', incident: 'open-incident' };

function plausibleText(name: string, { service, method, answer, random }: Making): string {
  if (name === 'action') return ACTIONS[service] ?? 'none';
  // A saga is its own operation.
  const runId = answer.get('run_id');
  if (name === 'operation_id' && typeof runId === 'string' && method.name !== 'SoftDelete') return runId;
  const texts = PLAUSIBLE_TEXTS[name];
  if (texts) return oneOf(random, texts);
  return name === 'id' || name.endsWith('_id') ? newId() : `${name.replaceAll('_', '-')}-${Math.floor(random() * 30)}`;
}

const EDGE_TEXTS: readonly [Buffer, ...Buffer[]] = [
  Buffer.alloc(0),
  ...[
    '\0',
    'a\0b',
    '\\u0000',
    'x'.repeat(201),
    'x'.repeat(70_000),
    '😀'.repeat(120),
    '\u202efdp.exe',
    'e\u0301\u0301\u0301',
    '\ufeff',
    '\uffff',
    ' ',
    '\n',
    '../../etc/passwd',
    '/',
    '.',
    "' or true --",
    '%s%n',
    '__proto__',
    'constructor',
    'null',
    '0',
    '-1',
    '1e309',
    'NaN',
    '2026-02-30',
    '9999-12-31',
    '{"a":',
    '00000000-0000-0000-0000-000000000000',
    '01A21A58-44FF-7EE9-A06E-843A92007753',
    // Page tokens that decode to something else than a page.
    Buffer.from('null').toString('base64url'),
    Buffer.from('{"a":[]}').toString('base64url'),
    Buffer.from('["a",1,null]').toString('base64url'),
  ].map((text) => Buffer.from(text)),
  // No UTF-8: lone surrogates, an overlong NUL, a cut sequence, a byte that there is not.
  Buffer.from([0xed, 0xa0, 0x80]),
  Buffer.from([0x61, 0xed, 0xbf, 0xbf, 0x62]),
  Buffer.from([0xc0, 0x80]),
  Buffer.from([0xf0, 0x9f, 0x98]),
  Buffer.from([0xff]),
];

/** An edge, or a value that belongs under another name, whole or with one letter changed. */
function edgeText({ answer, random }: Making): Buffer {
  const texts = [...answer.values()].filter((value) => typeof value === 'string');
  const [first, ...rest] = texts;
  if (first === undefined || random() < 0.7) return oneOf(random, EDGE_TEXTS);
  const text = Buffer.from(oneOf(random, [first, ...rest]));
  if (text.length > 0 && random() < 0.5) {
    const at = Math.floor(random() * text.length);
    text[at] = ((text[at] ?? 0) + 1) % 128;
  }
  return text;
}

const SECONDS_EDGES = [
  0n,
  -1n,
  1n,
  62_135_596_800n,
  -62_135_596_800n,
  -62_135_596_801n,
  253_402_300_799n,
  253_402_300_800n,
  315_576_000_000n,
  -315_576_000_000n,
  315_576_000_001n,
  2n ** 53n,
  2n ** 63n - 1n,
  -(2n ** 63n),
] as const;
const NANOS_EDGES = [0, 1, -1, 999_999_999, 1_000_000_000, -999_999_999, 2_147_483_647, -2_147_483_648] as const;
const DAY = 86_400;

const SPECIAL: Readonly<Record<string, (making: Making) => BinaryWriter>> = {
  'google.protobuf.Timestamp': (making) =>
    writeSeconds(making, Math.floor(Date.now() / 1_000) + Math.floor((making.random() * 40 - 38) * DAY)),
  // From seconds, as a lease has, to hours, as an age has.
  'google.protobuf.Duration': (making) => writeSeconds(making, oneOf(making.random, [1, 30, 50, 7_200, 90_000])),
  'google.protobuf.Struct': (making) =>
    making.random() < making.edgeChance ? edgeStruct(making) : writeStruct(plausibleInput(making)),
};

function writeSeconds({ random, edgeChance }: Making, plausible: number): BinaryWriter {
  const isEdge = random() < edgeChance;
  const writer = new BinaryWriter();
  writer.tag(1, WireType.Varint).int64(isEdge ? oneOf(random, SECONDS_EDGES) : BigInt(plausible));
  const nanos = isEdge ? oneOf(random, NANOS_EDGES) : Math.floor(random() * 1e9);
  return writer.tag(2, WireType.Varint).int32(nanos);
}

const BRIEF = {
  client: 'Kestrel Bikes',
  product: 'the K2 cargo bike',
  audience: 'parents in towns',
  tone: 'warm',
  goals: ['fill test rides'],
  channels: ['newsletter'],
};

/** What every participant's action understands, all at once. */
const ACTION_INPUT = {
  display_name: 'call',
  task_names: ['transcribe'],
  title: 'drift',
  drift_summary: { score: 1 },
  assets: [{ name: 'a.txt', text: 'a' }],
};

const plausibleInput = ({ method }: Making): Readonly<Record<string, Json>> =>
  method.name === 'StartRun' ? { brief: BRIEF } : ACTION_INPUT;

type Json = null | boolean | number | string | Buffer | readonly Json[] | { readonly [key: string]: Json };

const writeStruct = (json: { readonly [key: string]: Json }): BinaryWriter => {
  const writer = new BinaryWriter();
  for (const [key, value] of Object.entries(json)) writeEntry(writer, Buffer.from(key), writeValue(value));
  return writer;
};

function writeEntry(writer: BinaryWriter, key: Uint8Array, value: BinaryWriter): void {
  const entry = new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(key);
  entry.tag(2, WireType.LengthDelimited).bytes(value.finish());
  writer.tag(1, WireType.LengthDelimited).bytes(entry.finish());
}

function writeValue(value: Json): BinaryWriter {
  const writer = new BinaryWriter();
  if (value === null) return writer.tag(1, WireType.Varint).int32(0);
  if (typeof value === 'number') return writer.tag(2, WireType.Bit64).double(value);
  if (typeof value === 'string') return writer.tag(3, WireType.LengthDelimited).string(value);
  if (Buffer.isBuffer(value)) return writer.tag(3, WireType.LengthDelimited).bytes(value);
  if (typeof value === 'boolean') return writer.tag(4, WireType.Varint).bool(value);
  if (!Array.isArray(value))
    return writer
      .tag(5, WireType.LengthDelimited)
      .bytes(writeStruct(value as { readonly [key: string]: Json }).finish());
  const list = new BinaryWriter();
  for (const item of value) list.tag(1, WireType.LengthDelimited).bytes(writeValue(item).finish());
  return writer.tag(6, WireType.LengthDelimited).bytes(list.finish());
}

const nested = (depth: number, wrap: (inner: Json) => Json): Json => {
  let json: Json = 'at the bottom';
  for (let level = 0; level < depth; level += 1) json = wrap(json);
  return json;
};

const EDGE_VALUES: readonly [(random: Random) => Json, ...((random: Random) => Json)[]] = [
  (random) => nested(oneOf(random, [10, 24, 25, 26, 33, 60, 99, 150, 1_000]), (inner) => ({ a: inner })),
  (random) => nested(oneOf(random, [10, 24, 25, 26, 33, 60, 99, 150, 1_000]), (inner) => [inner]),
  (random) =>
    oneOf(random, [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0, 1e308, 5e-324, 2 ** 53]),
  (random) => oneOf(random, EDGE_TEXTS),
  () => Array.from({ length: 20_000 }, () => 0),
  () => 'x'.repeat(1_048_576),
  () => '"\\'.repeat(200_000),
  () => Object.fromEntries(Array.from({ length: 3_000 }, (_, index) => [`k${index}`, null])),
];

/** A Struct with one strange value or key, or with what only bytes can have: a value of no kind, a key twice. */
function edgeStruct(making: Making): BinaryWriter {
  const { random } = making;
  const plausible = plausibleInput(making);
  const writer = writeStruct(plausible);
  const strange = writeValue(oneOf(random, EDGE_VALUES)(random));
  const key = Buffer.from(oneOf(random, ['odd', ...Object.keys(plausible)]));
  const pick = random();
  if (pick < 0.7) writeEntry(writer, key, strange);
  else if (pick < 0.85) writeEntry(writer, oneOf(random, EDGE_TEXTS), writeValue(1));
  else writeEntry(writer, key, new BinaryWriter());
  return writer;
}

/** Bytes that are no message any more, or a message with more in it than its type has. */
function spoil(bytes: Buffer, random: Random): Buffer {
  const at = Math.floor(random() * bytes.length);
  const noise = Buffer.from(Array.from({ length: 40 }, () => Math.floor(random() * 256)));
  return oneOf<() => Buffer>(random, [
    () => bytes.subarray(0, at),
    () => noise,
    () => Buffer.concat([bytes, noise]),
    () => {
      const changed = Buffer.from(bytes);
      if (changed.length > 0) changed[at] = Math.floor(random() * 256);
      return changed;
    },
    // A varint without end, a length beyond the end, groups that never close, a field number of zero.
    () => Buffer.concat([bytes, Buffer.alloc(11, 0xff)]),
    () => Buffer.concat([bytes, Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f])]),
    () => Buffer.concat([bytes, Buffer.alloc(5_000, 0x0b)]),
    () => Buffer.concat([bytes, Buffer.from([0x00, 0x01])]),
    () => Buffer.concat([bytes, new BinaryWriter().tag(9_999, WireType.LengthDelimited).bytes(noise).finish()]),
  ])();
}
