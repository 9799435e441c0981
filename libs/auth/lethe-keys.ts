import type { JWK } from 'jose';
import { TENANT_ROLES } from '#libs/kernel/caller.ts';
import { ROLES } from './keys.ts';
import type { Grant } from './trust-file.ts';

const MINUTE = 60;
const HOUR = 3_600;
const ANY = ['*'];
const LETHE = { audiences: ['lethe'], max_lifetime_seconds: HOUR } as const satisfies Partial<Grant>;
const SERVICE = { roles: ['service'], subjects: ANY, max_lifetime_seconds: MINUTE } as const satisfies Partial<Grant>;

/** What the keys that Lethe makes for itself may sign at most. */
export const LETHE_KEYS = {
  /** RunService calls participants, on behalf of whoever asked. */
  run: [
    {
      ...SERVICE,
      actors: ['service:run'],
      audiences: ['lethe-participant:*'],
      scopes: ['participant:*'],
      tenants: ANY,
    },
  ],
  /** RetentionService calls owners; their subjects and tenants it lists for nobody's tenant. */
  retention: [
    { ...SERVICE, actors: ['service:retention'], audiences: ['lethe-owner:*'], scopes: ['owner:read'] },
    {
      ...SERVICE,
      actors: ['service:retention'],
      audiences: ['lethe-owner:*'],
      scopes: ['owner:count', 'owner:purge'],
      tenants: ANY,
    },
  ],
  /** The nightly purge orders one purge of all tenants. */
  'retention-purge': [
    {
      ...LETHE,
      roles: ['platform'],
      scopes: ['retention:purge', 'retention:read'],
      subjects: ['retention-purge'],
      max_lifetime_seconds: 5 * MINUTE,
    },
  ],
  /** The weekly report lists orphans; the RPC would also sweep them. */
  'orphan-report': [
    {
      ...LETHE,
      roles: ['platform'],
      scopes: ['orphans:sweep'],
      subjects: ['orphan-report'],
      max_lifetime_seconds: 5 * MINUTE,
    },
  ],
  /** Operators act across tenants, and in a tenant with any role of it. */
  operator: [
    { ...LETHE, roles: ['platform'], scopes: ANY, subjects: ANY },
    { ...LETHE, roles: ['platform', ...TENANT_ROLES], scopes: ANY, subjects: ANY, tenants: ANY },
  ],
} as const satisfies Record<string, readonly Grant[]>;

/** What a key that is handed to one tenant may sign: any person there, for an hour. */
export const tenantKey = (tenant: string): readonly Grant[] => [
  { ...LETHE, roles: [...TENANT_ROLES], scopes: ANY, subjects: ANY, tenants: [tenant] },
];

/** What the key of the local stack's user may sign: any person, the platform, and a service that opens incidents. */
export const localUserKey = (longestSeconds: number): readonly Grant[] => {
  const common = { audiences: ['lethe'], subjects: ANY, max_lifetime_seconds: longestSeconds };
  return [
    { ...common, roles: ['platform'], scopes: ANY },
    { ...common, roles: ['platform', ...TENANT_ROLES], scopes: ANY, tenants: ANY },
    { ...common, roles: ['service'], scopes: ['incidents:write'], tenants: ANY },
  ];
};

/**
 * What the key of the suites for participants and owners may sign: every token that one of them has to refuse by
 * itself. It is for local stacks alone.
 */
export const SUITE_KEY: readonly Grant[] = [{}, { tenants: ANY }, { actors: ANY }, { tenants: ANY, actors: ANY }].map(
  (named) => ({
    roles: ROLES,
    scopes: ANY,
    audiences: ['lethe-participant:*', 'lethe-owner:*'],
    subjects: ANY,
    max_lifetime_seconds: HOUR,
    ...named,
  }),
);

/** One entry of a trust file, as it stands in it. */
export interface WrittenEntry {
  readonly name: string;
  readonly issuer: string;
  readonly jwks: { readonly keys: readonly JWK[] };
  readonly allow: readonly Grant[];
}

/** A trust file with these entries. */
export const toTrustFile = (trust: readonly WrittenEntry[]): string => `${JSON.stringify({ trust }, undefined, 2)}\n`;
