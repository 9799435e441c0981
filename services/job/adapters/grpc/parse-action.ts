import type { JsonObject, JsonValue } from '@bufbuild/protobuf';
import { parseFields } from '#libs/grpc/parse.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { assertKnown, parseString } from '#libs/participant/parse-input.ts';
import { parseArtifactName } from '../../domain/artifact.ts';
import type { Asset, CreateJobAction } from '../../domain/step-action.ts';
import { parseDisplayName, parseMediaType, parseTaskNames } from './fields.ts';

const MAX_INPUT_BYTES = 1_048_576;
const MAX_ASSETS = 100;
const FIELDS = ['display_name', 'task_names', 'assets', 'state'];
const ASSET_FIELDS = ['name', 'content_type', 'text', 'base64'];
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/**
 * The input of the action `create-job`; FIELD_INVALID naming every bad field by its path, as `input.assets[0].name`.
 *
 * `display_name`: as of CreateJob. `task_names`: as of CreateJob. `assets`: up to 100 objects, stored as OUTPUT
 * artifacts, each with a `name` of its own, a `content_type` (application/octet-stream by default) and its bytes as
 * `text` or as `base64`. `state`: `COMPLETED` once the assets are stored, or `PENDING`, the default, for a worker.
 */
export function parseCreateJobAction(input: JsonObject | undefined): CreateJobAction {
  const given = input ?? {};
  if (Buffer.byteLength(JSON.stringify(given)) > MAX_INPUT_BYTES) throw fieldInvalid('input', 'must be at most 1 MiB');
  return parseFields({
    _: () => assertKnown('input', given, FIELDS),
    displayName: () => parseDisplayName('input.display_name', parseString('input.display_name', given['display_name'])),
    taskNames: () =>
      parseTaskNames(
        'input.task_names',
        parseArray('input.task_names', given['task_names']).map((name, index) =>
          parseString(`input.task_names[${index}]`, name),
        ),
      ),
    assets: () => parseAssets(parseArray('input.assets', given['assets'])),
    state: () => {
      const state = parseString('input.state', given['state']) || 'PENDING';
      if (state === 'PENDING' || state === 'COMPLETED') return state;
      throw fieldInvalid('input.state', 'must be PENDING or COMPLETED');
    },
  });
}

function parseAssets(values: readonly JsonValue[]): readonly Asset[] {
  if (values.length > MAX_ASSETS) throw fieldInvalid('input.assets', `must be at most ${MAX_ASSETS}`);
  const assets = Object.values(
    parseFields(Object.fromEntries(values.map((value, index) => [index, () => parseAsset(index, value)]))),
  );
  if (new Set(assets.map(({ name }) => name)).size !== assets.length) {
    throw fieldInvalid('input.assets', 'must not hold a name twice');
  }
  return assets;
}

function parseAsset(index: number, value: JsonValue): Asset {
  const field = `input.assets[${index}]`;
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw fieldInvalid(field, 'must be an object');
  return parseFields({
    _: () => assertKnown(field, value, ASSET_FIELDS),
    name: () => parseArtifactName(`${field}.name`, parseString(`${field}.name`, value['name'])),
    contentType: () =>
      parseMediaType(`${field}.content_type`, parseString(`${field}.content_type`, value['content_type'])),
    content: () => {
      if ('text' in value && 'base64' in value) throw fieldInvalid(`${field}.base64`, 'must not stand beside text');
      if (!('base64' in value)) return Buffer.from(parseString(`${field}.text`, value['text']));
      const base64 = parseString(`${field}.base64`, value['base64']);
      if (!BASE64.test(base64)) throw fieldInvalid(`${field}.base64`, 'must be base64');
      return Buffer.from(base64, 'base64');
    },
  });
}

function parseArray(field: string, value: JsonValue | undefined): readonly JsonValue[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw fieldInvalid(field, 'must be a list');
  return value;
}
