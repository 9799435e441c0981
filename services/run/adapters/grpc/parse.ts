import { fieldInvalid } from '#libs/kernel/domain-error.ts';

/** The longest name for people, in characters. */
export const MAX_NAME = 200;
/** The longest reason why a run or a step failed, in characters. */
export const MAX_ERROR = 2_000;

const WORKFLOW = /^[A-Za-z0-9_.-]{1,100}$/;

/** The workflow's name as it stands; FIELD_INVALID for what cannot be one. */
export function parseWorkflow(workflow: string, field = 'workflow'): string {
  if (!WORKFLOW.test(workflow)) throw fieldInvalid(field, 'must be 1 to 100 of letters, digits, _, - and .');
  return workflow;
}
