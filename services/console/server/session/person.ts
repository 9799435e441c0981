import { decodeJwt } from 'jose';
import { ROLES } from '#libs/auth/keys.ts';
import type { ClaimNames } from '#libs/auth/trust-file.ts';
import type { Role } from '#libs/kernel/caller.ts';

/** Who is signed in, as the page shows it. The services decide by the token itself, and never by this. */
export interface Person {
  readonly subject: string;
  /** Undefined: the person acts for no tenant, as a platform operator. */
  readonly tenant: string | undefined;
  /** Undefined: the provider gave the person no role that Lethe knows. */
  readonly role: Role | undefined;
  readonly scopes: readonly string[];
}

/** Reads from an access token who it is for. Its signature is not verified: that is for the services. */
export function personOf(accessToken: string, claims: ClaimNames): Person {
  const payload = decodeJwt(accessToken);
  const textOf = (claim: string): string | undefined =>
    typeof payload[claim] === 'string' ? payload[claim] : undefined;
  const scope = payload[claims.scope];
  const scopes = typeof scope === 'string' ? scope.split(' ') : Array.isArray(scope) ? scope.map(String) : [];
  const roles = [payload[claims.role]].flat();
  return {
    subject: textOf(claims.subject) ?? '',
    tenant: textOf(claims.tenant),
    role: ROLES.find((role) => roles.includes(role)),
    scopes: scopes.filter((each) => each !== ''),
  };
}
