import type { Command } from 'commander';
import type { FieldViolation } from '#libs/kernel/domain-error.ts';

/** How fields of requests go on a command line; the first that the command has is what the user typed. */
const SPELLINGS: Readonly<Record<string, readonly string[]>> = {
  run_id: ['run', '--run'],
  job_id: ['job', '--job'],
  deletion_id: ['deletion'],
  bulk_deletion_id: ['bulk'],
  incident_id: ['incident', '--incident'],
  environment_id: ['environment', '--environment'],
  drift_check_id: ['check', '--check'],
  approval_id: ['approval'],
  purge_id: ['purge'],
  tenant_id: ['--of', 'tenant', '--tenant'],
  tenant_ids: ['--of', '--tenant'],
  target_id: ['--target'],
  display_name: ['name', '--name'],
  name: ['plan', 'subject', 'participant', 'name', '--name'],
  plan_name: ['plan', '--plan'],
  page_size: ['--limit'],
  windows: ['--window'],
  retention_days: ['--days'],
  min_executions_to_keep: ['--keep'],
  stale_after_days: ['--stale-after'],
  state: ['state', '--state'],
  requested_state: ['state'],
  task_names: ['--task'],
  min_age: ['--min-age-hours'],
  max_share_percent: ['--max-share'],
  effective_time: ['--effective'],
  check_time: ['--at'],
  min_create_time: ['--since'],
  after_time: ['--since'],
  max_create_time: ['--until'],
  before_time: ['--until'],
  first_day: ['--from'],
  last_day: ['--to'],
  drift_summary: ['--details'],
  summary: ['--summary'],
  validate_only: ['--dry-run'],
};

/** A field as the user typed it, `--name` or `<run>`; as it is where the command has nothing like it. */
export function spellField(command: Command | undefined, field: string): string {
  if (!command) return field;
  const last =
    field
      .replace(/\[\d+\]/g, '')
      .split('.')
      .at(-1) ?? field;
  const candidates = [...(SPELLINGS[last] ?? []), `--${last.replaceAll('_', '-')}`];
  for (const candidate of candidates) {
    if (candidate.startsWith('--')) {
      if (hasOption(command, candidate)) return candidate;
    } else if (command.registeredArguments.some((argument) => argument.name() === candidate)) {
      return `<${candidate}>`;
    }
  }
  return field;
}

const hasOption = (command: Command, flag: string): boolean =>
  command.options.some(({ long }) => long === flag) || (command.parent !== null && hasOption(command.parent, flag));

/** Bad fields in one sentence, in the user's words. */
export const spellViolations = (command: Command | undefined, violations: readonly FieldViolation[]): string =>
  `${violations
    .map(({ field, description }) => `${spellField(command, field)} ${spellWords(command, description)}`)
    .join('; ')}.`;

/** A sentence in which fields go by what the user typed. */
const spellWords = (command: Command | undefined, sentence: string): string =>
  sentence.replace(/\b[a-z]+(?:_[a-z]+)+\b/g, (word) => spellField(command, word));
