import packageJson from '../../package.json' with { type: 'json' };

/** The version of Lethe that this is. */
export const VERSION: string = packageJson.version;
