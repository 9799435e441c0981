import type { IdentityOptions } from './session.ts';

/** What every command takes. */
export interface GlobalOptions extends IdentityOptions {
  readonly json?: true;
  readonly output: 'table' | 'json';
}

/** Whether results are printed as JSON. */
export const isJson = ({ json, output }: Pick<GlobalOptions, 'json' | 'output'>): boolean =>
  json === true || output === 'json';
