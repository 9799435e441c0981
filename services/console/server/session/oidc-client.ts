import { decodeJwt } from 'jose';
import * as oidc from 'openid-client';
import { SignInError } from './sign-in-error.ts';
import type { SignInSettings } from './sign-in-settings.ts';

/** What the provider's answer to one sign-in is checked against; it stays in the browser's sealed cookie. */
export interface SignInChecks {
  readonly state: string;
  readonly nonce: string;
  readonly codeVerifier: string;
}

/** What the provider gave a person. Times are in seconds since 1970. */
export interface Tokens {
  readonly accessToken: string;
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly idToken?: string | undefined;
  readonly refreshToken?: string | undefined;
}

/** An OpenID provider, as a client of it sees it. Every call throws a SignInError when it cannot be done. */
export interface OidcClient {
  /** Begins a sign-in: where the browser is sent, and what its answer must fit. */
  begin(loginHint?: string): Promise<{ url: URL; checks: SignInChecks }>;
  /** Exchanges the code in the query of the callback for tokens. A code is good for one exchange. */
  finish(query: URLSearchParams, checks: SignInChecks): Promise<Tokens>;
  /** New tokens. SIGN_IN_FAILED: the provider has ended the session. */
  refresh(tokens: Tokens & { readonly refreshToken: string }): Promise<Tokens>;
  /** Tells the provider that tokens are no longer used. Nothing happens where it cannot be told. */
  revoke(tokens: Tokens): Promise<void>;
  /** Where the browser goes to end its session with the provider too; undefined where the provider has no such place. */
  endUrl(idToken: string | undefined): Promise<URL | undefined>;
}

const ANSWER_SECONDS = 10;

/** The path that the provider sends the browser back to. */
export const CALLBACK_PATH = '/auth/callback';

/** Makes the client. The provider is asked for its metadata at the first use, and again until it has answered. */
export function makeOidcClient(settings: SignInSettings): OidcClient {
  const { issuer, clientId, clientSecret, scope, parameters, consoleUrl } = settings;
  const redirectUri = new URL(CALLBACK_PATH, consoleUrl);
  let discovered: Promise<oidc.Configuration> | undefined;

  const discover = async (): Promise<oidc.Configuration> => {
    const authentication = clientSecret === undefined ? oidc.None() : oidc.ClientSecretBasic(clientSecret);
    // The settings let http through on a loopback address alone.
    const execute = [oidc.enableNonRepudiationChecks];
    if (issuer.protocol === 'http:') execute.push(oidc.allowInsecureRequests);
    return oidc.discovery(issuer, clientId, undefined, authentication, { execute, timeout: ANSWER_SECONDS });
  };
  const configuration = async (): Promise<oidc.Configuration> => {
    discovered ??= discover();
    try {
      return await discovered;
    } catch (error) {
      discovered = undefined;
      throw new SignInError(
        'PROVIDER_UNAVAILABLE',
        `The sign-in at ${issuer.host} cannot be reached. Try again.`,
        error,
      );
    }
  };

  return {
    async begin(loginHint) {
      const config = await configuration();
      const checks = {
        state: oidc.randomState(),
        nonce: oidc.randomNonce(),
        codeVerifier: oidc.randomPKCECodeVerifier(),
      };
      const url = oidc.buildAuthorizationUrl(config, {
        ...parameters,
        ...(loginHint === undefined ? {} : { login_hint: loginHint }),
        redirect_uri: redirectUri.href,
        scope,
        state: checks.state,
        nonce: checks.nonce,
        code_challenge: await oidc.calculatePKCECodeChallenge(checks.codeVerifier),
        code_challenge_method: 'S256',
      });
      return { url, checks };
    },
    async finish(query, { state, nonce, codeVerifier }) {
      const config = await configuration();
      const answer = new URL(redirectUri);
      answer.search = query.toString();
      const response = await told(
        oidc.authorizationCodeGrant(config, answer, {
          expectedState: state,
          expectedNonce: nonce,
          pkceCodeVerifier: codeVerifier,
          idTokenExpected: true,
        }),
      );
      return toTokens(response);
    },
    async refresh({ refreshToken, idToken }) {
      const response = await told(oidc.refreshTokenGrant(await configuration(), refreshToken));
      return { idToken, refreshToken, ...toTokens(response) };
    },
    async revoke({ accessToken, refreshToken }) {
      try {
        const config = await configuration();
        if (config.serverMetadata().revocation_endpoint === undefined) return;
        if (refreshToken !== undefined) await oidc.tokenRevocation(config, refreshToken);
        else await oidc.tokenRevocation(config, accessToken);
      } catch {
        // Most providers cannot revoke a JWT. The session is over here in any case.
      }
    },
    async endUrl(idToken) {
      const config = await configuration();
      if (config.serverMetadata().end_session_endpoint === undefined) return undefined;
      return oidc.buildEndSessionUrl(config, {
        post_logout_redirect_uri: `${consoleUrl}/`,
        ...(idToken === undefined ? {} : { id_token_hint: idToken }),
      });
    },
  };
}

type TokenResponse = oidc.TokenEndpointResponse;

/** The times are the JWT's own, cut by the provider's `expires_in` where that is sooner. */
function toTokens(response: TokenResponse): Tokens {
  const { access_token: accessToken, id_token: idToken, refresh_token: refreshToken } = response;
  const now = Math.floor(Date.now() / 1_000);
  let exp: number | undefined;
  let iat: number | undefined;
  try {
    ({ exp, iat } = decodeJwt(accessToken));
  } catch {
    // Told below.
  }
  const expiresAt = Math.min(exp ?? 0, now + (response.expires_in ?? Number.POSITIVE_INFINITY));
  if (expiresAt <= now) {
    const message =
      'The provider gave an access token that Lethe cannot use: it must be a JWT with an expiry. Configure the ' +
      "provider to issue JWTs for Lethe's audience, or name the audience in LETHE_OIDC_PARAMETERS.";
    throw new SignInError('TOKEN_UNUSABLE', message);
  }
  return {
    accessToken,
    issuedAt: iat ?? now,
    expiresAt,
    ...(idToken === undefined ? {} : { idToken }),
    ...(refreshToken === undefined ? {} : { refreshToken }),
  };
}

/** What the provider answered, or a SignInError in words for the person; the cause is for the log. */
async function told<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof oidc.AuthorizationResponseError) {
      const message = `The provider did not sign you in (${shown(error.error)}).`;
      throw new SignInError('SIGN_IN_REFUSED', message, error);
    }
    if (isProvidersFault(error))
      throw new SignInError('PROVIDER_UNAVAILABLE', 'The provider does not answer. Try again.', error);
    throw new SignInError('SIGN_IN_FAILED', 'The sign-in could not be verified. Sign in again.', error);
  }
}

const NO_ANSWER_CODES: ReadonlySet<unknown> = new Set([
  'OAUTH_TIMEOUT',
  'OAUTH_ABORT',
  'OAUTH_RESPONSE_IS_NOT_CONFORM',
  'OAUTH_RESPONSE_IS_NOT_JSON',
]);

/** Whether the provider gave no answer of its own, so that the same may go well later. */
function isProvidersFault(error: unknown): boolean {
  if (error instanceof oidc.ResponseBodyError) return error.status >= 500;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  // What fetch throws where nobody listens is a TypeError without a code.
  return NO_ANSWER_CODES.has(code) || (error instanceof TypeError && code === undefined);
}

/** An error code of OAuth, which has no other characters; anything else came from somebody who wants it shown. */
const shown = (code: string): string => (/^[a-z_]{1,40}$/.test(code) ? code : 'error');
