import { type FieldViolation, fieldsInvalid } from '#libs/kernel/domain-error.ts';
import { isId } from '#libs/kernel/id.ts';
import type { JsonObject } from '../../domain/run.ts';
import { type Brief, normalise } from './content.ts';

/** What a run of client_to_delivery is given. */
export interface Input {
  /** A brief that exists, or under which id the one given is to be kept. Undefined: a new one. */
  readonly briefId: string | undefined;
  /** Undefined: the brief exists. */
  readonly brief: Brief | undefined;
  /** The environment in IncidentService of which an incident tells when quality control fails. */
  readonly environmentId: string;
  readonly forceQcFail: boolean;
  readonly forceDeliveryFail: boolean;
}

const FIELDS = ['brief_id', 'brief', 'environment_id', 'force_qc_fail', 'force_delivery_fail'] as const;
const TEXTS = ['client', 'product', 'audience'] as const;
const MAX_TEXT = 200;
const MAX_ITEMS = 10;
const CHANNEL = /^[a-z0-9][a-z0-9_-]{0,49}$/;
const DEFAULT_TONE = 'plain';

/**
 * The input, typed, its brief normalised. FIELD_INVALID that names every field that is wrong: `environment_id` is
 * required, and so is `brief_id` or `brief`; a brief has client, product and audience (1 to 200 characters each), goals
 * and channels (1 to 10 each) and may have a tone.
 */
export function parseInput(json: JsonObject): Input {
  const violations: FieldViolation[] = [];
  const report = (field: string, description: string): void => {
    violations.push({ field: `input.${field}`, description });
  };
  const flag = (name: string): boolean => {
    const value = json[name] ?? false;
    if (typeof value !== 'boolean') report(name, 'must be true or false');
    return value === true;
  };
  for (const name of Object.keys(json)) {
    if (!FIELDS.some((field) => field === name)) report(name, 'is not known');
  }
  const id = json['brief_id'];
  if (id !== undefined && (typeof id !== 'string' || !isId(id))) report('brief_id', 'must be a UUID in lower case');
  if (id === undefined && json['brief'] === undefined) report('brief', 'is required where no brief_id is given');
  const environmentId = json['environment_id'];
  if (typeof environmentId !== 'string' || !isId(environmentId)) {
    report('environment_id', 'must be a UUID in lower case');
  }
  const brief = json['brief'] === undefined ? undefined : parseBrief(json['brief'], report);
  const input: Input = {
    briefId: typeof id === 'string' ? id : undefined,
    brief,
    environmentId: String(environmentId),
    forceQcFail: flag('force_qc_fail'),
    forceDeliveryFail: flag('force_delivery_fail'),
  };
  if (violations.length > 0) throw fieldsInvalid(violations);
  return input;
}

function parseBrief(json: unknown, report: (field: string, description: string) => void): Brief {
  const fields: JsonObject = typeof json === 'object' && json !== null && !Array.isArray(json) ? { ...json } : {};
  const text = (name: string, fallback?: string): string => {
    const value = fields[name] ?? fallback;
    const isGood = typeof value === 'string' && value.trim() !== '' && value.length <= MAX_TEXT;
    if (!isGood) report(`brief.${name}`, `must be a text of 1 to ${MAX_TEXT} characters`);
    return isGood ? value : '';
  };
  const texts = (name: string): readonly string[] => {
    const values = fields[name];
    const isGood =
      Array.isArray(values) &&
      values.length >= 1 &&
      values.length <= MAX_ITEMS &&
      values.every((value) => typeof value === 'string' && value.trim() !== '' && value.length <= MAX_TEXT);
    if (!isGood) report(`brief.${name}`, `must be 1 to ${MAX_ITEMS} texts of 1 to ${MAX_TEXT} characters`);
    return isGood ? (values as string[]) : [];
  };
  const [client = '', product = '', audience = ''] = TEXTS.map((name) => text(name));
  const brief = normalise({
    client,
    product,
    audience,
    tone: text('tone', DEFAULT_TONE),
    goals: texts('goals'),
    channels: texts('channels'),
  });
  // A channel names a file and an object, so it is held to less than a text.
  if (brief.channels.some((channel) => !CHANNEL.test(channel))) {
    report('brief.channels', 'must be of letters, digits, _ and -, up to 50');
  }
  return brief;
}
