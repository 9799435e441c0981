import { readFileSync } from 'node:fs';
import type { ClaimNames } from '#libs/auth/trust-file.ts';
import type { SettingsReader } from '#libs/kernel/settings.ts';

/** How people sign in: the OpenID provider, and what the console keeps for them. */
export interface SignInSettings {
  readonly issuer: URL;
  readonly clientId: string;
  /** Undefined: a public client, which proves itself by PKCE alone. */
  readonly clientSecret: string | undefined;
  /** The scopes that are asked for, separated by spaces; `openid` is one of them. */
  readonly scope: string;
  /** More parameters of the authorization request, such as `audience` or `resource`. */
  readonly parameters: Readonly<Record<string, string>>;
  /** Where the provider's access tokens say who somebody is; the same names as in the services' trust file. */
  readonly claims: ClaimNames;
  /** The origin that browsers see. */
  readonly consoleUrl: string;
  /** Keys of 32 bytes: the first seals cookies, and each of them opens cookies. */
  readonly sessionKeys: readonly Buffer[];
}

const KEY_BYTES = 32;
const LOOPBACK: ReadonlySet<string> = new Set(['localhost', '127.0.0.1', '[::1]']);
const CLAIMS: ClaimNames = { subject: 'sub', tenant: 'tenant', role: 'role', scope: 'scope' };
// The console makes these itself; another value would take away what the sign-in is checked by.
const OWN_PARAMETERS =
  /^(client_id|redirect_uri|response_type|response_mode|scope|state|nonce|code_challenge(_method)?|request(_uri)?|login_hint)$/;

/**
 * Reads how people sign in; undefined where no LETHE_OIDC_ISSUER is set, and then nobody can.
 *
 * Issuer and console must be on https. Plain http is for the embedded stack: it takes `LETHE_DEVELOPMENT_SIGN_IN=on`,
 * and the issuer, LETHE_CONSOLE_URL and LETHE_HTTP_ADDRESS all on a loopback address.
 */
export function readSignInSettings(reader: SettingsReader): SignInSettings | undefined {
  const isDevelopment = reader.oneOf('LETHE_DEVELOPMENT_SIGN_IN', ['on', 'off'], 'off') === 'on';
  if (isDevelopment) {
    const isLocal = (url: string) => isLoopback(new URL(url));
    reader.parsed(
      'LETHE_CONSOLE_URL',
      refuse((text) => isLocal(text), DEVELOPMENT_ONLY),
    );
    reader.parsed(
      'LETHE_HTTP_ADDRESS',
      refuse((text) => isLocal(`http://${text}`), DEVELOPMENT_ONLY),
      '0.0.0.0:7405',
    );
    reader.parsed(
      'LETHE_OIDC_ISSUER',
      refuse((text) => isLocal(text), DEVELOPMENT_ONLY),
    );
  }
  const parseUrl = (text: string): URL => {
    const url = URL.parse(text);
    if (url?.protocol === 'https:') return url;
    if (url?.protocol === 'http:' && isDevelopment) return url;
    throw new Error('must be an https URL');
  };
  if (reader.optional('LETHE_OIDC_ISSUER', String) === undefined) return undefined;
  return {
    issuer: reader.parsed('LETHE_OIDC_ISSUER', parseUrl),
    clientId: reader.text('LETHE_OIDC_CLIENT_ID'),
    clientSecret: reader.optional('LETHE_OIDC_CLIENT_SECRET_FILE', (path) => readSecret(path)),
    scope: reader.parsed('LETHE_OIDC_SCOPE', parseScope, 'openid'),
    parameters: reader.optional('LETHE_OIDC_PARAMETERS', parseParameters) ?? {},
    claims: reader.optional('LETHE_OIDC_CLAIMS', parseClaims) ?? CLAIMS,
    consoleUrl: reader.parsed('LETHE_CONSOLE_URL', (text) => parseUrl(text).origin),
    sessionKeys: reader.parsed('LETHE_SESSION_KEY_FILE', readSessionKeys),
  };
}

const DEVELOPMENT_ONLY =
  'must be on a loopback address, since LETHE_DEVELOPMENT_SIGN_IN is for the embedded stack only';

const refuse =
  (isGood: (text: string) => boolean, problem: string) =>
  (text: string): string => {
    let good = false;
    try {
      good = isGood(text);
    } catch {
      // No URL at all: the setting's own reader says so.
    }
    if (!good) throw new Error(problem);
    return text;
  };

/** Whether a URL names this machine by a loopback address. */
export const isLoopback = ({ hostname }: URL): boolean => LOOPBACK.has(hostname);

function readSecret(path: string): string {
  const text = readText(path).trim();
  if (text === '') throw new Error('names an empty file');
  return text;
}

/** Keys in base64, one a line; see `make-keys.ts`. */
function readSessionKeys(path: string): readonly Buffer[] {
  const lines = readText(path)
    .split('\n')
    .flatMap((line) => (line.trim() === '' ? [] : [line.trim()]));
  const keys = lines.map((line) => Buffer.from(line, 'base64'));
  if (keys.length === 0 || keys.some((key) => key.length !== KEY_BYTES))
    throw new Error(`must name a file with a key of ${KEY_BYTES} bytes in base64 on each line`);
  return keys;
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new Error(`cannot be read: ${error instanceof Error && 'code' in error ? error.code : 'unreadable'}`);
  }
}

function parseScope(text: string): string {
  const scopes = text.split(/\s+/).filter((scope) => scope !== '');
  if (!scopes.includes('openid')) throw new Error('must have openid among its scopes');
  return scopes.join(' ');
}

function parseParameters(text: string): Readonly<Record<string, string>> {
  const parameters = Object.fromEntries(new URLSearchParams(text));
  const own = Object.keys(parameters).find((name) => OWN_PARAMETERS.test(name));
  if (own !== undefined) throw new Error(`must not have ${own}, which the console sets itself`);
  return parameters;
}

/** `tenant=org_id,role=roles`: names of claims that are not Lethe's own. */
function parseClaims(text: string): ClaimNames {
  const pairs = text.split(',').map((pair) =>
    pair
      .split(/=(.*)/s)
      .slice(0, 2)
      .map((part) => part.trim()),
  );
  for (const [field = '', claim = ''] of pairs) {
    if (!Object.hasOwn(CLAIMS, field) || claim === '')
      throw new Error(`must be FIELD=CLAIM,… with the fields ${Object.keys(CLAIMS).join(', ')}`);
  }
  return { ...CLAIMS, ...Object.fromEntries(pairs) };
}
