import type { PurgeForecast } from '#gen/lethe/retention/v1/retention_pb.ts';
import { confirmByTyping } from './confirm.ts';
import type { CommandContext } from './context.ts';
import { instantOf } from './output.ts';
import { makeTable, render, type Text } from './table.ts';
import type { Terminal } from './terminal.ts';

/** What a change would make the next purge remove, one subject a row. */
export const forecastTable = makeTable<PurgeForecast>({
  SUBJECT: ({ subject }) => subject,
  'WOULD GO': ({ expiredCount }) => String(expiredCount),
  'GOES ANYWAY': ({ currentExpiredCount }) => String(currentExpiredCount),
  TENANTS: ({ tenantCount }) => String(tenantCount),
  'NOT COUNTED': ({ uncountedTenantCount }) => String(uncountedTenantCount),
  FROM: ({ effectTime }) => instantOf(effectTime) || 'the next purge',
});

/** A result that was not applied, above what it would make the next purge remove. */
export const previewText = (table: Text, forecasts: readonly PurgeForecast[]): Text => [
  'Nothing was changed. It would be:',
  table,
  '',
  forecastTable(forecasts),
];

/** Whether a change makes something go that stayed before, as far as could be counted. */
const takesMore = ({ expiredCount, currentExpiredCount, uncountedTenantCount, effectTime }: PurgeForecast): boolean =>
  expiredCount > currentExpiredCount || uncountedTenantCount > 0 || effectTime !== undefined;

/** What a change would leave, and what it would remove. */
interface ShownChange {
  readonly what: string;
  /** What is typed to go on. */
  readonly word: string;
  readonly yes: boolean;
  preview(): Promise<{ readonly table: Text; readonly forecasts: readonly PurgeForecast[] }>;
}

/**
 * On a terminal: shows what a change would remove and asks, if there is more than without it. Without a terminal, and
 * with `--yes`, it passes unasked.
 */
export async function confirmShortening(
  { terminal, progress }: Pick<CommandContext, 'progress'> & { readonly terminal: Terminal },
  { what, word, yes, preview }: ShownChange,
): Promise<void> {
  if (yes || !terminal.isInteractive) return;
  const { table, forecasts } = await preview();
  if (!forecasts.some(takesMore)) return;
  progress.stop();
  terminal.err(render(previewText(table, forecasts), terminal.columns));
  await confirmByTyping(terminal, `What a purge then removes is gone: ${what}`, word, false);
}
