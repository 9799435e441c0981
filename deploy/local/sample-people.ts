import type { Grant } from '#libs/auth/trust-file.ts';
import type { Role } from '#libs/kernel/caller.ts';

/** Somebody who can sign in to the console of the embedded stack. */
export interface SamplePerson {
  /** The `sub` of their tokens. */
  readonly subject: string;
  readonly role: Role;
  /** Undefined: an operator of the platform, who acts for no tenant. */
  readonly tenantId?: string;
  /** What the sign-in page says about them. */
  readonly about: string;
}

/** The people of the sample's tenants; the first is the one whom the sign-in link of `npm start` is for. */
export const SAMPLE_PEOPLE: readonly [SamplePerson, ...SamplePerson[]] = [
  { subject: 'admin@globex', role: 'admin', tenantId: 'globex', about: 'deletes, undeletes and purges' },
  { subject: 'owner@globex', role: 'owner', tenantId: 'globex', about: 'may do all that an admin may' },
  { subject: 'member@globex', role: 'member', tenantId: 'globex', about: 'adds and cancels, and deletes nothing' },
  { subject: 'viewer@globex', role: 'viewer', tenantId: 'globex', about: 'looks, and changes nothing' },
  { subject: 'admin@acme', role: 'admin', tenantId: 'acme', about: 'another tenant, which sees nothing of globex' },
  {
    subject: 'admin@atelier',
    role: 'admin',
    tenantId: 'atelier',
    about: 'workflows that delivered and that were undone',
  },
  { subject: 'admin@hobby', role: 'admin', tenantId: 'hobby', about: 'the plan FREE' },
  { subject: 'admin@studio', role: 'admin', tenantId: 'studio', about: 'the plan PRO, with purged incidents' },
  { subject: 'admin@bureau', role: 'admin', tenantId: 'bureau', about: 'the plan AGENCY, with executions' },
  { subject: 'admin@concern', role: 'admin', tenantId: 'concern', about: 'the plan ENTERPRISE' },
  { subject: 'operator@platform', role: 'platform', about: 'operates Lethe: plans, purges of all tenants' },
];

/** How long a token of the development provider may live. */
export const DEVELOPMENT_TOKEN_SECONDS = 900;

/** What the development provider's key may sign: tokens for these people in their own roles and tenants. */
export const developmentProviderKey = (): readonly Grant[] =>
  SAMPLE_PEOPLE.map(({ subject, role, tenantId }) => ({
    roles: [role],
    scopes: ['*'],
    audiences: ['lethe'],
    subjects: [subject],
    ...(tenantId === undefined ? {} : { tenants: [tenantId] }),
    max_lifetime_seconds: DEVELOPMENT_TOKEN_SECONDS,
  }));
