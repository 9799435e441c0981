import { type DescMethod, fromBinary } from '@bufbuild/protobuf';
import type { Identity } from '#deploy/local/stack.ts';
import { authorize, type CalleeRule, type Rule } from '#libs/auth/authorize.ts';
import { readSigningKey } from '#libs/auth/keys.ts';
import { POLICY, SCOPES } from '#libs/auth/policy.ts';
import { calleeAudience } from '#libs/auth/sign-token.ts';
import { type Caller, TENANT_ROLES } from '#libs/kernel/caller.ts';
import { type CalleeToken, signCalleeToken } from '#test/support/callee-token.ts';
import type { TestStack } from '#test/support/test-stack.ts';

/** A caller of one call: the name to tell it by, and its token, if it has any. */
export interface FuzzCaller {
  readonly name: string;
  readonly token: string | undefined;
}

/** Chooses who makes a call of an RPC that a service serves. */
export type ChooseCaller = (
  service: string,
  method: DescMethod,
  request: Uint8Array,
  random: () => number,
) => Promise<FuzzCaller>;

const IDENTITIES: readonly (Identity & { readonly name: string })[] = [
  ...TENANT_ROLES.map((role) => ({ name: role, role, tenantId: 'acme' })),
  { name: 'owner elsewhere', role: 'owner', tenantId: 'globex' },
  { name: 'owner without scopes', role: 'owner', tenantId: 'acme', scopes: ['jobs:read'] },
  { name: 'platform', role: 'platform' },
  { name: 'platform in a tenant', role: 'platform', tenantId: 'acme' },
  { name: 'service', role: 'service', tenantId: 'acme', scopes: ['incidents:write'] },
];

/** Most calls are made by somebody who may make them, the others by anybody and by nobody. */
export async function makeCallers(stack: TestStack): Promise<ChooseCaller> {
  const key = await readSigningKey(stack.suiteKeyFile);
  const tokens = new Map<string, Promise<string>>();
  const tokenOf = (identity: (typeof IDENTITIES)[number]): Promise<string> => {
    const token = tokens.get(identity.name) ?? stack.token(identity);
    tokens.set(identity.name, token);
    return token;
  };
  return async (service, method, request, random) => {
    const rule = POLICY[`${method.parent.typeName}/${method.name}`];
    const isAllowed = random() < 0.85;
    if (rule && 'callee' in rule && random() < 0.9) {
      const token = calleeToken(method, request, rule, isAllowed);
      const audience = calleeAudience(rule.callee, service);
      return { name: `caller of the ${rule.callee}`, token: await signCalleeToken(key, audience, token) };
    }
    const allowed = IDENTITIES.filter((identity) => may(identity, rule));
    const among = isAllowed && allowed.length > 0 ? allowed : IDENTITIES;
    const chosen = among[Math.floor(random() * among.length)];
    if (!isAllowed && random() < 0.3) return { name: 'nobody', token: undefined };
    if (!chosen || (!isAllowed && random() < 0.2))
      return { name: 'somebody with no token', token: 'eyJhbGciOiJub25lIn0.e30.' };
    return { name: chosen.name, token: await tokenOf(chosen) };
  };
}

function may({ role, tenantId, scopes = SCOPES }: Identity, rule: Rule | undefined): boolean {
  const kind = role === 'platform' || role === 'service' ? role : 'user';
  const caller: Caller = { subject: role, actor: role, kind, role, tenantId, scopes: new Set(scopes) };
  try {
    authorize(caller, rule);
    return true;
  } catch {
    return false;
  }
}

/** A token for this very request, as far as it can be read; one that names nothing where it should not fit. */
function calleeToken(method: DescMethod, request: Uint8Array, rule: CalleeRule, isFitting: boolean): CalleeToken {
  const { runId, key, operationId, rule: asked, subject } = isFitting ? read(method, request) : {};
  return {
    audience: 'own',
    role: 'service',
    scope: rule.calleeScope,
    actor: 'ada',
    actingService: rule.callee === 'participant' ? 'service:run' : 'service:retention',
    tenantId: rule.isOfTenant ? 'acme' : undefined,
    subject: claim(asked?.subject || subject),
    runId: claim(runId),
    operationId: claim(key?.operationId || operationId),
    step: claim(key?.step),
    lifetimeSeconds: 60,
    issuedSecondsAgo: 0,
    signature: 'good',
  };
}

// A header that is too long ends the connection, and with it the calls of everybody else on it.
const claim = (text: string | undefined): string | undefined => text?.slice(0, 300) || undefined;

interface Named {
  readonly runId?: string;
  readonly operationId?: string;
  readonly subject?: string;
  readonly key?: { readonly operationId?: string; readonly step?: string };
  readonly rule?: { readonly subject?: string };
}

function read(method: DescMethod, request: Uint8Array): Named {
  try {
    return fromBinary(method.input, request) as unknown as Named;
  } catch {
    return {};
  }
}
