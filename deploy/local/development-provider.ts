import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { JWK } from 'jose';
import type { AdapterPayload, Configuration, interactionPolicy } from 'oidc-provider';
import { SCOPES } from '#libs/auth/policy.ts';
import { makeOneTimeLinks } from './one-time-links.ts';
import { DEVELOPMENT_TOKEN_SECONDS, SAMPLE_PEOPLE, type SamplePerson } from './sample-people.ts';
import { endSessionPage, errorPage, signInPage } from './sign-in-page.ts';

/** The client id of the console. */
export const CONSOLE_CLIENT_ID = 'lethe-console';

/** How the provider is run. */
export interface DevelopmentProviderOptions {
  /** Says that this is the embedded stack. Nothing else may set it: the provider lets anybody in. */
  readonly isEmbeddedStack: true;
  /** Its issuer, which is where it listens: http on a loopback address, with a port. */
  readonly issuer: string;
  /** The console's origin; http on a loopback address. */
  readonly consoleUrl: string;
  /** A private ES256 key with a kid; the trust file has its public half. */
  readonly key: JWK;
  /** Who can sign in; SAMPLE_PEOPLE by default. */
  readonly people?: readonly SamplePerson[];
  readonly tokenSeconds?: number;
  /** False: the provider gives no refresh tokens. */
  readonly refreshes?: boolean;
  /** More claims of access tokens. */
  readonly moreClaims?: Readonly<Record<string, unknown>>;
}

/** A provider that serves. */
export interface DevelopmentProvider {
  /** A link to the console that signs this person in, once, within `lifeMs`. */
  makeLink(subject: string, lifeMs?: number): string;
  stop(): Promise<void>;
}

const LINK_MS = 30 * 60_000;
const SESSION_SECONDS = 12 * 3_600;
const LINK_HINT = 'link:';
const LOOPBACK: ReadonlySet<string> = new Set(['127.0.0.1', '[::1]', 'localhost']);
// The console asks for no resource of its own accord.
const RESOURCE = 'urn:lethe';

/**
 * Starts an OpenID provider where anybody can sign in as one of the sample's people. It is for the embedded stack alone:
 * an Error anywhere but on loopback addresses, without the flag, or in production.
 */
export async function startDevelopmentProvider(options: DevelopmentProviderOptions): Promise<DevelopmentProvider> {
  assertEmbedded(options);
  const { issuer, consoleUrl, people = SAMPLE_PEOPLE } = options;
  const links = makeOneTimeLinks();
  const { Provider, interactionPolicy } = await loadProvider();
  const provider = new Provider(issuer, configurationOf(options, interactionPolicy));
  const serve = provider.callback();
  const server = createServer((request, response) => {
    // Whoever is looked at by another page cannot be made to click there.
    response.setHeader('x-frame-options', 'DENY');
    response.setHeader('content-security-policy', "frame-ancestors 'none'");
    if (!/^\/interaction\/[\w-]+$/.test(request.url ?? '')) return void serve(request, response);
    interact(request, response).catch(() => {
      response.statusCode = 400;
      response.setHeader('content-type', 'text/html; charset=utf-8');
      response.end(errorPage('This sign-in is over. Go back to the console and sign in again.', consoleUrl));
    });
  });

  const interact = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { params } = await provider.interactionDetails(request, response);
    const finish = (accountId: string) =>
      provider.interactionFinished(request, response, { login: { accountId } }, { mergeWithLastSubmission: false });
    if (request.method === 'POST') {
      const chosen = new URLSearchParams(await readBody(request)).get('subject');
      const person = people.find(({ subject }) => subject === chosen);
      if (person) return finish(person.subject);
    }
    const hint = String(params['login_hint'] ?? '');
    const outcome =
      request.method === 'GET' && hint.startsWith(LINK_HINT) ? links.use(hint.slice(LINK_HINT.length)) : undefined;
    if (outcome?.kind === 'good') return finish(outcome.subject);
    response.setHeader('content-type', 'text/html; charset=utf-8');
    response.setHeader('cache-control', 'no-store');
    response.end(signInPage(people, outcome?.kind));
  };

  const { hostname, port } = new URL(issuer);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(Number(port), hostname.replace(/^\[|\]$/g, ''), resolve);
  });
  return {
    makeLink(subject, lifeMs = LINK_MS) {
      const link = new URL('/auth/sign-in', consoleUrl);
      link.searchParams.set('login_hint', `${LINK_HINT}${links.make(subject, lifeMs)}`);
      return link.href;
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function assertEmbedded({ isEmbeddedStack, issuer, consoleUrl }: DevelopmentProviderOptions): void {
  const isLocal = (text: string): boolean => {
    const url = URL.parse(text);
    return url !== null && url.protocol === 'http:' && LOOPBACK.has(url.hostname);
  };
  const isProduction = process.env['NODE_ENV'] === 'production';
  if (isEmbeddedStack !== true || isProduction || !isLocal(issuer) || !isLocal(consoleUrl)) {
    throw new Error(
      'the development sign-in lets anybody in: it is for the embedded stack alone, on loopback addresses and not in production',
    );
  }
}

/** Loads oidc-provider without its warning that it knows no Node.js of this version, which tells a visitor nothing. */
async function loadProvider(): Promise<typeof import('oidc-provider')> {
  const { warn } = console;
  console.warn = () => undefined;
  try {
    return await import('oidc-provider');
  } finally {
    console.warn = warn;
  }
}

function configurationOf(
  options: DevelopmentProviderOptions,
  { Check, base }: Pick<typeof interactionPolicy, 'Check' | 'base'>,
): Configuration {
  const { consoleUrl, key, people = SAMPLE_PEOPLE, tokenSeconds = DEVELOPMENT_TOKEN_SECONDS } = options;
  const { refreshes = true, moreClaims } = options;
  const personOf = (subject: string): SamplePerson | undefined => people.find((person) => person.subject === subject);
  const policy = base();
  // A link signs its own person in, whoever is signed in with the provider already.
  policy.get('login')?.checks.add(
    new Check('sign_in_link', 'a sign-in link was followed', ({ oidc }) => {
      const isLink = String(oidc.params?.['login_hint'] ?? '').startsWith(LINK_HINT);
      return isLink && !oidc.result?.login ? Check.REQUEST_PROMPT : Check.NO_NEED_TO_PROMPT;
    }),
  );
  return {
    adapter: makeMemoryAdapter(),
    clients: [
      {
        client_id: CONSOLE_CLIENT_ID,
        redirect_uris: [`${consoleUrl}/auth/callback`],
        post_logout_redirect_uris: [`${consoleUrl}/`],
        token_endpoint_auth_method: 'none',
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        id_token_signed_response_alg: 'ES256',
      },
    ],
    jwks: { keys: [{ ...key, use: 'sig', alg: 'ES256' }] } as Configuration['jwks'] & object,
    cookies: { keys: [randomBytes(32).toString('hex')] },
    interactions: { policy, url: (_ctx, { uid }) => `/interaction/${uid}` },
    findAccount: (_ctx, subject) => personOf(subject) && { accountId: subject, claims: async () => ({ sub: subject }) },
    issueRefreshToken: async () => refreshes,
    // Whoever signs in to the console has agreed to that.
    async loadExistingGrant({ oidc }) {
      const grant = new oidc.provider.Grant({
        ...(oidc.client ? { clientId: oidc.client.clientId } : {}),
        ...(oidc.session?.accountId ? { accountId: oidc.session.accountId } : {}),
      });
      grant.addOIDCScope('openid');
      grant.addResourceScope(RESOURCE, SCOPES.join(' '));
      await grant.save();
      return grant;
    },
    extraTokenClaims(_ctx, token) {
      const person = 'accountId' in token && token.accountId ? personOf(token.accountId) : undefined;
      if (!person) return undefined;
      const { role, tenantId } = person;
      return { role, ...(tenantId === undefined ? {} : { tenant: tenantId }), ...moreClaims };
    },
    features: {
      devInteractions: { enabled: false },
      revocation: { enabled: true, allowedPolicy: (_ctx, client, token) => token.clientId === client.clientId },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource(ctx, form) {
          ctx.body = endSessionPage(form);
        },
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          audience: 'lethe',
          scope: SCOPES.join(' '),
          accessTokenTTL: tokenSeconds,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
    renderError(ctx, { error_description: description, error }) {
      ctx.type = 'html';
      ctx.body = errorPage(String(description ?? error), consoleUrl);
    },
    ttl: {
      AccessToken: tokenSeconds,
      AuthorizationCode: 60,
      Grant: SESSION_SECONDS,
      IdToken: SESSION_SECONDS,
      Interaction: 3_600,
      RefreshToken: SESSION_SECONDS,
      Session: SESSION_SECONDS,
    },
  };
}

const MAX_BODY_BYTES = 10_000;

async function readBody(request: IncomingMessage): Promise<string> {
  let body = '';
  for await (const chunk of request) {
    body += String(chunk);
    if (body.length > MAX_BODY_BYTES) throw new Error('the form is too large');
  }
  return body;
}

/** What the provider remembers, in this process's memory. */
function makeMemoryAdapter(): NonNullable<Configuration['adapter']> {
  const stored = new Map<string, { payload: AdapterPayload; until: number }>();
  const read = (key: string): AdapterPayload | undefined => {
    const entry = stored.get(key);
    if (entry === undefined || entry.until > Date.now()) return entry?.payload;
    stored.delete(key);
    return undefined;
  };
  return (model: string) => {
    const keyOf = (id: string): string => `${model}:${id}`;
    const find = async (id: string) => read(keyOf(id));
    return {
      find,
      async findByUid(uid: string) {
        return [...stored].find(([key, { payload }]) => key.startsWith(`${model}:`) && payload.uid === uid)?.[1]
          .payload;
      },
      findByUserCode: async () => undefined,
      async upsert(id: string, payload: AdapterPayload, expiresIn: number) {
        stored.set(keyOf(id), { payload, until: Date.now() + (expiresIn || SESSION_SECONDS) * 1_000 });
      },
      async consume(id: string) {
        const payload = read(keyOf(id));
        if (payload) payload.consumed = Math.floor(Date.now() / 1_000);
      },
      async destroy(id: string) {
        stored.delete(keyOf(id));
      },
      async revokeByGrantId(grantId: string) {
        // Of this model: an interaction that goes on names the grant too.
        for (const [key, { payload }] of stored)
          if (key.startsWith(keyOf('')) && payload.grantId === grantId) stored.delete(key);
      },
    };
  };
}
