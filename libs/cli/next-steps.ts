import type { LetheError } from '#libs/client/lethe.ts';
import { REASONS, type ReasonEntry } from '#libs/client/reasons.ts';

const entryOf = (reason: string): ReasonEntry | undefined =>
  Object.hasOwn(REASONS, reason) ? REASONS[reason as keyof typeof REASONS] : undefined;

/** What to do about an error, in a sentence; undefined where its reason is not one of Lethe's own. */
export function nextStepOf({ reason, metadata }: LetheError): string | undefined {
  const fill = (_: string, name: string): string => {
    const value = metadata[name.toLowerCase()] ?? '';
    return name === name.toUpperCase() ? value.toUpperCase() : value;
  };
  return entryOf(reason)?.next.replace(/\{(\w+)\}/g, fill);
}
