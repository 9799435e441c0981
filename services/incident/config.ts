import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { readOwnerSettings } from '#libs/owner/settings.ts';
import { readCommonSettings } from '#libs/service/common-settings.ts';

/** IncidentService's settings. */
export type IncidentSettings = ReturnType<typeof readIncidentSettings>;

/** Reads IncidentService's settings; throws one Error naming everything that is wrong. */
export const readIncidentSettings = (env: Environment) =>
  readSettings(env, (reader) => ({ ...readCommonSettings(reader), ...readOwnerSettings(reader) }));
