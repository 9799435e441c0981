/**
 * A PostgreSQL URL as it stands, without white space around it, which those who read it later take for different things.
 * An Error that says what is missing unless it names user, host and database, so that nothing is filled in by a default: a
 * half-written URL would otherwise reach whatever database is near. The Error never shows the URL, which may hold a
 * password.
 */
export function parseDatabaseUrl(text: string): string {
  const trimmed = text.trim();
  let url: URL;
  try {
    url = new URL(trimmed);
  } catch {
    throw new Error('must be a URL such as postgres://user:password@host:5432/database');
  }
  const missing = [
    ['a user', url.username],
    ['a host', url.hostname],
    ['a database', url.pathname.replace(/^\//, '')],
  ].flatMap(([what, part]) => (part ? [] : [what]));
  if (url.protocol !== 'postgres:' && url.protocol !== 'postgresql:') missing.unshift('the scheme postgres:');
  if (missing.length > 0)
    throw new Error(`lacks ${missing.join(', ')}; such as postgres://user:password@host:5432/database`);
  if (url.pathname.slice(1).includes('/')) throw new Error('names more than a database');
  return trimmed;
}

/** Takes the PG… variables away, by which the driver would fill in what a URL leaves out. */
export function ignoreDriverVariables(env: NodeJS.ProcessEnv): void {
  for (const name of Object.keys(env)) if (/^PG[A-Z]+$/.test(name)) delete env[name];
}
