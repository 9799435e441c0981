import secureSession from '@fastify/secure-session';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { SignInChecks, Tokens } from './oidc-client.ts';
import { SignInError } from './sign-in-error.ts';

/** Somebody's session, as the browser keeps it: sealed, so that neither the browser nor a page can read or change it. */
export interface Session extends Tokens {
  readonly kind: 'session';
  /** The same from sign-in to sign-out, and another for every sign-in. */
  readonly id: string;
  /** When it ends whatever the provider says, in seconds since 1970. */
  readonly endsAt: number;
}

/** A sign-in that was begun. */
export interface PendingSignIn extends SignInChecks {
  readonly kind: 'sign-in';
  /** The path of the page to go to afterwards. */
  readonly returnTo: string;
  readonly expiresAt: number;
}

/** Reads and writes the console's two cookies. A value of undefined removes the cookie. */
export interface SessionCookies {
  readSession(request: FastifyRequest): Session | undefined;
  /** SESSION_TOO_LARGE where it does not fit into a cookie, even without what only the sign-out would use. */
  writeSession(reply: FastifyReply, session: Session | undefined): void;
  readSignIn(request: FastifyRequest): PendingSignIn | undefined;
  writeSignIn(reply: FastifyReply, signIn: PendingSignIn | undefined): void;
}

// What every browser takes, of name and value together; more is dropped without a word.
const MAX_COOKIE_BYTES = 4_096;
const LONGEST_SECONDS = 7 * 86_400;

const prefixOf = (isHttps: boolean): string => (isHttps ? '__Host-' : '');

/** The name of the cookie that holds a session. */
export const sessionCookieName = (isHttps: boolean): string => `${prefixOf(isHttps)}lethe-session`;

/**
 * Registers the cookies. They are httpOnly and sameSite=lax: strict ones would be missing when the provider sends the
 * browser back. On https their names begin with `__Host-`, so that no other host of the domain can set them.
 */
export async function registerSessionCookies(
  app: FastifyInstance,
  { isHttps, keys }: { isHttps: boolean; keys: readonly Buffer[] },
): Promise<SessionCookies> {
  const names = { session: sessionCookieName(isHttps), signIn: `${prefixOf(isHttps)}lethe-sign-in` } as const;
  const attributes = { path: '/', httpOnly: true, sameSite: 'lax', secure: isHttps } as const;
  await app.register(
    secureSession,
    (['session', 'signIn'] as const).map((sessionName) => ({
      sessionName,
      cookieName: names[sessionName],
      key: [...keys],
      // Longer than any of them: each says by itself when it ends.
      expiry: LONGEST_SECONDS,
      cookie: { ...attributes },
    })),
  );

  const open = (request: FastifyRequest, name: keyof typeof names): unknown => {
    const sealed = request.cookies[names[name]];
    if (!sealed) return undefined;
    try {
      return app.decodeSecureSession(sealed, undefined, name)?.data();
    } catch {
      return undefined;
    }
  };
  const toCookie = (name: keyof typeof names, value: Readonly<Record<string, unknown>>, maxAge: number): string => {
    const sealed = app.encodeSecureSession(app.createSecureSession({ ...value }), name);
    return app.serializeCookie(names[name], sealed, { ...attributes, maxAge });
  };
  // The value is encoded: it has no semicolon of its own.
  const sizeOf = (cookie: string): number => cookie.indexOf(';');
  const set = (reply: FastifyReply, cookie: string): void => void reply.header('set-cookie', cookie);
  const remove = (reply: FastifyReply, name: keyof typeof names): void =>
    set(reply, app.serializeCookie(names[name], '', { ...attributes, maxAge: 0 }));
  const now = (): number => Math.floor(Date.now() / 1_000);

  return {
    readSession(request) {
      const value = open(request, 'session') as Session | undefined;
      return value?.kind === 'session' ? value : undefined;
    },
    writeSession(reply, session) {
      if (session === undefined) return remove(reply, 'session');
      const maxAge = endOf(session) - now();
      const whole = toCookie('session', { ...session }, maxAge);
      if (sizeOf(whole) <= MAX_COOKIE_BYTES) return set(reply, whole);
      const { idToken: _, ...smaller } = session;
      const cookie = toCookie('session', smaller, maxAge);
      if (sizeOf(cookie) <= MAX_COOKIE_BYTES) return set(reply, cookie);
      const message =
        `The provider's tokens take ${sizeOf(cookie)} bytes, and a cookie holds ${MAX_COOKIE_BYTES}. ` +
        'Ask for fewer scopes (LETHE_OIDC_SCOPE), or have the provider leave claims out of the access token.';
      throw new SignInError('SESSION_TOO_LARGE', message);
    },
    readSignIn(request) {
      const value = open(request, 'signIn') as PendingSignIn | undefined;
      return value?.kind === 'sign-in' && value.expiresAt > now() ? value : undefined;
    },
    writeSignIn(reply, signIn) {
      if (signIn === undefined) return remove(reply, 'signIn');
      return set(reply, toCookie('signIn', { ...signIn }, signIn.expiresAt - now()));
    },
  };
}

/** When a session is over unless it is signed in anew: its token can be refreshed until then, or is good until then. */
export const endOf = ({ refreshToken, expiresAt, endsAt }: Session): number =>
  refreshToken === undefined ? Math.min(expiresAt, endsAt) : endsAt;
