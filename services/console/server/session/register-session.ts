import { randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from '#libs/telemetry/logger.ts';
import { toErrorBody } from '../error-body.ts';
import { type CredentialOf, credentialOfHeader } from './credential.ts';
import { type EndedSessions, makeEndedSessions } from './ended-sessions.ts';
import { CALLBACK_PATH, makeOidcClient, type OidcClient } from './oidc-client.ts';
import { type Person, personOf } from './person.ts';
import { makeRenewSession, renewAt } from './renew-session.ts';
import { endOf, registerSessionCookies, type Session, type SessionCookies } from './session-cookies.ts';
import { signedOutPage, signInErrorPage } from './session-pages.ts';
import { SignInError, STATUS_OF_REASON } from './sign-in-error.ts';
import type { SignInSettings } from './sign-in-settings.ts';

/** What `GET /api/session` answers. */
export interface SessionBody extends Person {
  /** When the person has to sign in again, in RFC 3339. */
  readonly expires_at: string;
  /** After how long to ask for the session again, which renews its token. Absent: it cannot be renewed. */
  readonly renew_after_seconds?: number;
}

/** What `POST /auth/sign-out` answers to a page. */
export interface SignedOutBody {
  /** Where the browser is to go, so that its session with the provider ends too. */
  readonly location: string;
}

const SIGN_IN_SECONDS = 600;
const SESSION_SECONDS = 12 * 3_600;
const MAX_RETURN_LENGTH = 1_000;
const SIGN_IN_PATH = '/auth/sign-in';
const SIGN_OUT_PATH = '/auth/sign-out';

/**
 * Registers sign-in, sign-out and `GET /api/session`, and returns how the credential of a request is found: in its
 * `authorization` header, else in its session. Without settings nobody can sign in, and only the header counts.
 *
 * `GET /api/session` alone renews a session, and the page asks one at a time: a refresh token is often good for one use,
 * and a provider may end the session of one that comes twice, as from two replicas.
 *
 * A session ends with sign-out, with the provider's tokens, and 12 hours after the sign-in at the latest. While the
 * provider does not answer, a session whose token has expired is PROVIDER_UNAVAILABLE, and not over.
 */
export async function registerSession(
  app: FastifyInstance,
  settings: SignInSettings | undefined,
  log: Logger,
): Promise<CredentialOf> {
  if (settings === undefined) {
    app.get('/api/session', (_request, reply) => sendSignedOut(reply));
    app.get(SIGN_IN_PATH, (request, reply) => {
      const message = 'Nobody can sign in here: no OpenID provider is configured (LETHE_OIDC_ISSUER).';
      return sendSignInError(request, reply, new SignInError('SIGN_IN_OFF', message));
    });
    return credentialOfHeader;
  }
  const isHttps = settings.consoleUrl.startsWith('https:');
  const parts: SessionParts = {
    settings,
    log,
    client: makeOidcClient(settings),
    cookies: await registerSessionCookies(app, { isHttps, keys: settings.sessionKeys }),
    ended: makeEndedSessions(),
  };
  const renew = makeRenewSession(parts.client);

  /** The session of a request, renewed where it was time; ended ones are none. */
  const renewedSession = async (request: FastifyRequest, reply: FastifyReply): Promise<Session | undefined> => {
    const session = openSession(parts, request);
    if (session === undefined) return undefined;
    const renewed = await renew(session);
    if (renewed === undefined || parts.ended.has(session.id)) return undefined;
    if (renewed !== session) parts.cookies.writeSession(reply, renewed);
    return renewed;
  };

  registerSignIn(app, parts);
  registerSignOut(app, parts);
  app.get('/api/session', async (request, reply) => {
    try {
      const session = await renewedSession(request, reply);
      if (session !== undefined) return reply.send(toBody(session, settings));
    } catch (error) {
      log.warn({ err: error }, 'a session could not be renewed');
      // The cookie stays: the session goes on once the provider answers.
      return sendSignInError(request, reply, error);
    }
    if (parts.cookies.readSession(request) !== undefined) parts.cookies.writeSession(reply, undefined);
    return sendSignedOut(reply);
  });
  return (request) => {
    const given = credentialOfHeader(request);
    if (given !== undefined) return given;
    const session = openSession(parts, request);
    // An expired token goes on too, so that the service tells the person what is wrong with it.
    return session && { token: session.accessToken, source: 'session' };
  };
}

interface SessionParts {
  readonly settings: SignInSettings;
  readonly log: Logger;
  readonly client: OidcClient;
  readonly cookies: SessionCookies;
  readonly ended: EndedSessions;
}

/** The session in a request's cookie, which may have an expired token; undefined where it was ended. */
function openSession({ cookies, ended }: SessionParts, request: FastifyRequest): Session | undefined {
  const session = cookies.readSession(request);
  if (session === undefined || ended.has(session.id) || session.endsAt <= nowSeconds()) return undefined;
  return session;
}

function registerSignIn(app: FastifyInstance, parts: SessionParts): void {
  const { settings, client, cookies, ended, log } = parts;
  /** Sends the browser to the provider. `return_to` is a path of the page, `login_hint` goes to the provider as it is. */
  app.get(SIGN_IN_PATH, async (request, reply) => {
    try {
      const { return_to: returnTo, login_hint: loginHint } = request.query as Readonly<Record<string, unknown>>;
      const { url, checks } = await client.begin(typeof loginHint === 'string' ? loginHint : undefined);
      cookies.writeSignIn(reply, {
        kind: 'sign-in',
        ...checks,
        returnTo: pathOf(returnTo, settings.consoleUrl),
        expiresAt: nowSeconds() + SIGN_IN_SECONDS,
      });
      return reply.redirect(url.href, 303);
    } catch (error) {
      return sendSignInError(request, reply, error, log);
    }
  });

  /** The provider sends the browser back to here. */
  app.get(CALLBACK_PATH, async (request, reply) => {
    const begun = cookies.readSignIn(request);
    // Good for one answer, whatever that is.
    cookies.writeSignIn(reply, undefined);
    try {
      if (begun === undefined) {
        const message = 'This sign-in was not begun in this browser, or more than ten minutes ago. Sign in again.';
        throw new SignInError('SIGN_IN_UNKNOWN', message);
      }
      const tokens = await client.finish(new URL(request.url, settings.consoleUrl).searchParams, begun);
      // Nothing of an earlier session is taken over: who had planted or copied its cookie has nothing.
      const before = cookies.readSession(request);
      cookies.writeSession(reply, {
        kind: 'session',
        id: randomUUID(),
        ...tokens,
        endsAt: nowSeconds() + SESSION_SECONDS,
      });
      if (before !== undefined) ended.add(before.id, before.endsAt);
      log.info({ subject: personOf(tokens.accessToken, settings.claims).subject }, 'signed in');
      // Whole, since a path such as //x would be another host.
      return reply.redirect(`${settings.consoleUrl}${begun.returnTo}`, 303);
    } catch (error) {
      return sendSignInError(request, reply, error, log);
    }
  });
}

function registerSignOut(app: FastifyInstance, { settings, client, cookies, ended, log }: SessionParts): void {
  /**
   * Ends the session. A script is told where to send the browser; a form gets a page that goes there. Requests from other sites do not
   * get here.
   */
  app.post(SIGN_OUT_PATH, async (request, reply) => {
    const session = cookies.readSession(request);
    cookies.writeSession(reply, undefined);
    let location = `${settings.consoleUrl}/`;
    if (session !== undefined) {
      ended.add(session.id, session.endsAt);
      void client.revoke(session);
      // A provider that is down keeps nobody signed in here.
      location = (await client.endUrl(session.idToken).catch(() => undefined))?.href ?? location;
      log.info({ subject: personOf(session.accessToken, settings.claims).subject }, 'signed out');
    }
    if (!isForPerson(request)) return reply.send({ location } satisfies SignedOutBody);
    // A redirect of a form to another host is not allowed by the content policy; a page that goes there is.
    return reply.type('text/html; charset=utf-8').send(signedOutPage(location));
  });
}

const nowSeconds = (): number => Math.floor(Date.now() / 1_000);

const toBody = (session: Session, { claims }: SignInSettings): SessionBody => ({
  ...personOf(session.accessToken, claims),
  expires_at: new Date(endOf(session) * 1_000).toISOString(),
  ...(session.refreshToken === undefined
    ? {}
    : { renew_after_seconds: Math.max(1, Math.ceil(renewAt(session) - Date.now() / 1_000)) }),
});

const sendSignedOut = (reply: FastifyReply): FastifyReply =>
  reply.code(401).send(toErrorBody('SIGNED_OUT', 'Nobody is signed in. Sign in and try again.'));

/** A path of the page; the start page for anything else, such as the address of another site. */
function pathOf(value: unknown, consoleUrl: string): string {
  if (typeof value !== 'string' || value.length > MAX_RETURN_LENGTH || !value.startsWith('/')) return '/';
  const url = URL.parse(value, consoleUrl);
  if (url?.origin !== consoleUrl || url.pathname.startsWith('/auth/')) return '/';
  return `${url.pathname}${url.search}${url.hash}`;
}

/** Whether a browser asks for a page, and not a page for data. */
const isForPerson = ({ headers }: FastifyRequest): boolean => /text\/html/.test(headers.accept ?? '');

function sendSignInError(request: FastifyRequest, reply: FastifyReply, error: unknown, log?: Logger): FastifyReply {
  if (!(error instanceof SignInError)) throw error;
  const { reason, message, cause } = error;
  log?.warn({ reason, err: cause }, 'a sign-in failed');
  reply.code(STATUS_OF_REASON[reason]);
  if (!isForPerson(request)) return reply.send(toErrorBody(reason, message));
  return reply.type('text/html; charset=utf-8').send(signInErrorPage(message, SIGN_IN_PATH));
}
