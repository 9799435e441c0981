import type { JsonObject, JsonValue } from '@bufbuild/protobuf';
import { parseFields, parseText } from '#libs/grpc/parse.ts';
import { parseJsonObject } from '#libs/grpc/parse-json.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId, parseOptionalId } from '#libs/kernel/id.ts';
import { assertKnown, parseString } from '#libs/participant/parse-input.ts';
import type { StepAction } from '../../use-cases/ports.ts';
import { MAX_TITLE } from './incident-handlers.ts';

/** What the action `open-incident` makes. */
export type OpenIncidentAction = Pick<StepAction, 'environmentId' | 'driftCheckId' | 'title' | 'payload'>;

const FIELDS = ['environment_id', 'drift_check_id', 'title', 'drift_summary'];

/**
 * The input of the action `open-incident`; FIELD_INVALID naming every bad field by its path, as `input.title`.
 *
 * `environment_id` and `title`: as of OpenIncident. `drift_check_id`, `drift_summary`: as of OpenIncident, may be
 * left out. The incident belongs to the run and the step of the key.
 */
export function parseOpenIncidentAction(input: JsonObject | undefined): OpenIncidentAction {
  const given = input ?? {};
  return parseFields({
    _: () => {
      assertKnown('input', given, FIELDS);
      parseJsonObject('input', given);
    },
    environmentId: () => parseId('input.environment_id', parseString('input.environment_id', given['environment_id'])),
    driftCheckId: () =>
      parseOptionalId('input.drift_check_id', parseString('input.drift_check_id', given['drift_check_id'])),
    title: () => parseText('input.title', parseString('input.title', given['title']), { min: 1, max: MAX_TITLE }),
    payload: () => parsePayload('input.drift_summary', given['drift_summary']),
  });
}

/** What an input of `open-incident` names so far, which may be incomplete; FIELD_INVALID as of parseOpenIncidentAction. */
export function parseReferences(input: JsonObject = {}): {
  readonly environmentId: string | undefined;
  readonly driftCheckId: string | undefined;
} {
  const named = (name: string): string | undefined =>
    parseOptionalId(`input.${name}`, parseString(`input.${name}`, input[name]));
  return parseFields({
    environmentId: () => named('environment_id'),
    driftCheckId: () => named('drift_check_id'),
  });
}

function parsePayload(field: string, value: JsonValue | undefined): JsonObject | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'object' || Array.isArray(value)) throw fieldInvalid(field, 'must be an object');
  return value;
}
