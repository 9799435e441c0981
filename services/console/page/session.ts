import { useQuery, useSuspenseQuery } from '@tanstack/react-query';
import { SESSION_KEY } from './query-client.ts';

/** The roles in a tenant, lowest first; each may do what those before it may. */
const TENANT_ROLES = ['viewer', 'member', 'admin', 'owner'] as const;

/** A role in a tenant. */
export type TenantRole = (typeof TENANT_ROLES)[number];

/** Who is signed in. */
export interface Session {
  readonly subject: string;
  /** Undefined: a platform account without a tenant. */
  readonly tenant: string | undefined;
  /** Undefined: the provider gave the person no role that Lethe knows. */
  readonly role: TenantRole | 'platform' | 'service' | undefined;
  readonly scopes: readonly string[];
  /** From when on, by this browser's clock, it is to be asked for again before anything else is. */
  readonly renewAtMs: number | undefined;
}

/** What something needs. */
export interface Need {
  /** The least role; `platform`: only an operator of the installation. */
  readonly role: TenantRole | 'platform';
  readonly scope: string;
}

/** The session could not be read, for another reason than that nobody is signed in. */
export class SessionError extends Error {
  override readonly name = 'SessionError';
}

// Asking renews the session, by a token that may be good for one use: one window of the browser asks at a time, so that
// the next one comes with the cookie of the one before, and no question is given up while its answer is under way.
const fetchSession = (): Promise<Session | null> =>
  navigator.locks ? navigator.locks.request('lethe-session', readSession) : readSession();

// null: nobody is signed in.
async function readSession(): Promise<Session | null> {
  const response = await fetch('/api/session', { headers: { accept: 'application/json' } }).catch(() => {
    throw new SessionError('The console does not answer. Check that it is running and that you are online.');
  });
  if (response.status === 401) return null;
  if (!response.ok) throw new SessionError(`The console answered ${response.status} when it was asked who you are.`);
  const { subject, tenant, role, scopes, renew_after_seconds: seconds } = (await response.json()) as SessionBody;
  const renewAtMs = seconds === undefined ? undefined : Date.now() + seconds * 1_000;
  return { subject, tenant, role, scopes, renewAtMs };
}

/** What GET /api/session answers. */
interface SessionBody {
  readonly subject: string;
  readonly tenant?: string;
  readonly role?: Exclude<Session['role'], undefined>;
  readonly scopes: readonly string[];
  readonly renew_after_seconds?: number;
}

/** Ends the session and goes where the provider ends its own. */
export async function signOut(): Promise<void> {
  const response = await fetch('/auth/sign-out', { method: 'POST', headers: { accept: 'application/json' } });
  const { location } = (await response.json()) as { readonly location?: string };
  window.location.assign(location ?? '/');
}

const options = {
  queryKey: SESSION_KEY,
  queryFn: fetchSession,
  staleTime: Number.POSITIVE_INFINITY,
  retry: 1,
} as const;

/** The session as a query: data is null where nobody is signed in. */
export const useSessionQuery = () => useQuery(options);

/** Who is signed in. Only below SessionGate. */
export function useSession(): Session {
  const { data } = useSuspenseQuery(options);
  if (!data) throw new SessionError('Nobody is signed in.');
  return data;
}

/**
 * Why the person who is signed in may not do what needs this role and scope, as a sentence; undefined where they may. The
 * service decides all the same.
 */
export function useReasonNot({ role, scope }: Need): string | undefined {
  const session = useSession();
  if (!hasRole(session.role, role)) {
    return role === 'platform'
      ? 'Only operators of this installation can do this.'
      : `This needs the role ${role}; yours is ${session.role ?? 'none that Lethe knows'}.`;
  }
  if (!session.scopes.includes(scope)) return `This needs the scope ${scope}, which your sign-in does not have.`;
  return undefined;
}

function hasRole(role: Session['role'], minimum: Need['role']): boolean {
  if (role === 'platform') return true;
  if (role === undefined || role === 'service' || minimum === 'platform') return false;
  return TENANT_ROLES.indexOf(role) >= TENANT_ROLES.indexOf(minimum);
}
