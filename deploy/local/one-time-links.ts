import { hash, randomBytes } from 'node:crypto';

/** What became of a link that somebody followed. */
export type LinkOutcome =
  | { readonly kind: 'good'; readonly subject: string }
  | { readonly kind: 'used' | 'expired' | 'unknown' };

/** Secrets that sign one person in, once. */
export interface OneTimeLinks {
  /** A new secret for a person, good for `lifeMs`. */
  make(subject: string, lifeMs: number): string;
  /** Uses a secret up. It is good for the first use within its time, and says which of the two was missed. */
  use(secret: string): LinkOutcome;
}

/** Keeps the secrets' digests in memory; no secret outlives the process. */
export function makeOneTimeLinks(now: () => number = () => performance.now()): OneTimeLinks {
  const links = new Map<string, { subject: string; until: number; isUsed: boolean }>();
  return {
    make(subject, lifeMs) {
      const secret = randomBytes(24).toString('base64url');
      links.set(hash('sha256', secret), { subject, until: now() + lifeMs, isUsed: false });
      return secret;
    },
    use(secret) {
      const link = links.get(hash('sha256', secret));
      if (link === undefined) return { kind: 'unknown' };
      if (link.isUsed) return { kind: 'used' };
      if (link.until <= now()) return { kind: 'expired' };
      link.isUsed = true;
      return { kind: 'good', subject: link.subject };
    },
  };
}
