import { hash } from 'node:crypto';
import type { OidcClient, Tokens } from './oidc-client.ts';
import type { Session } from './session-cookies.ts';
import { SignInError } from './sign-in-error.ts';

/**
 * A session whose access token is good for a while, if the provider still gives one; undefined: it is over. A SignInError
 * with PROVIDER_UNAVAILABLE: the token is over, and whether the session is cannot be told now.
 */
export type RenewSession = (session: Session) => Promise<Session | undefined>;

const EARLIEST_SECONDS = 60;
const KEPT_MS = 60_000;

/** From when on a session's token is refreshed, in seconds since 1970: shortly before it expires. */
export const renewAt = ({ issuedAt, expiresAt }: Session): number =>
  expiresAt - Math.min(EARLIEST_SECONDS, (expiresAt - issuedAt) / 5);

/**
 * Makes the function that refreshes an access token shortly before it expires. A refresh token is often good for one
 * use: requests with the same token share one refresh, also when they come late with the cookie of before. While the
 * provider does not answer, the token is used to its end.
 */
export function makeRenewSession(client: Pick<OidcClient, 'refresh'>): RenewSession {
  const refreshes = new Map<string, Promise<Tokens>>();

  const refresh = (tokens: Tokens & { refreshToken: string }): Promise<Tokens> => {
    const key = hash('sha256', tokens.refreshToken);
    const known = refreshes.get(key);
    if (known) return known;
    const refreshed = client.refresh(tokens);
    refreshes.set(key, refreshed);
    const forget = (): void => void refreshes.delete(key);
    refreshed.then(
      () => setTimeout(forget, KEPT_MS).unref(),
      (error: unknown) => {
        // That the session is over stays so.
        if (error instanceof SignInError && error.reason === 'SIGN_IN_FAILED') setTimeout(forget, KEPT_MS).unref();
        else forget();
      },
    );
    return refreshed;
  };

  return async (session) => {
    const now = Date.now() / 1_000;
    const { expiresAt, endsAt, refreshToken } = session;
    if (endsAt <= now) return undefined;
    if (now < renewAt(session)) return session;
    const isExpired = now >= expiresAt;
    if (refreshToken === undefined) return isExpired ? undefined : session;
    try {
      return { ...session, ...(await refresh({ ...session, refreshToken })) };
    } catch (error) {
      if (!isExpired) return session;
      if (error instanceof SignInError && error.reason === 'PROVIDER_UNAVAILABLE') throw error;
      return undefined;
    }
  };
}
