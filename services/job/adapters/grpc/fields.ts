import { parseEach, parseText } from '#libs/grpc/parse.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';

const MAX_NAME = 200;
const MAX_MEDIA_TYPE = 100;
const MAX_TASKS = 50;
const TASK_NAME = /^[a-z0-9_-]{1,100}$/;

/** What people call the job: up to 200 characters. */
export const parseDisplayName = (field: string, value: string): string => parseText(field, value, { max: MAX_NAME });

/** A media type of up to 100 characters; application/octet-stream for the empty text. */
export const parseMediaType = (field: string, value: string): string =>
  parseText(field, value, { max: MAX_MEDIA_TYPE }) || 'application/octet-stream';

/** The name of a task: 1 to 100 of a-z, 0-9, `_` and `-`. */
export function parseTaskName(field: string, name: string): string {
  if (!TASK_NAME.test(name)) throw fieldInvalid(field, 'must be 1 to 100 of a-z, 0-9, _ and -');
  return name;
}

/** Up to 50 names of tasks, none of them twice. */
export function parseTaskNames(field: string, names: readonly string[]): readonly string[] {
  if (names.length > MAX_TASKS) throw fieldInvalid(field, `must be at most ${MAX_TASKS}`);
  if (new Set(names).size !== names.length) throw fieldInvalid(field, 'must not hold a name twice');
  return parseEach(names, (name, index) => parseTaskName(`${field}[${index}]`, name));
}
