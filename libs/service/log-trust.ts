import type { TrustEvents } from '#libs/auth/open-trust.ts';
import type { Logger } from '#libs/telemetry/logger.ts';

/** Logs each change of the trust file; one that cannot be used is an error, and changes nothing. */
export const logTrust = (log: Logger): TrustEvents => ({
  onReloaded: () => log.info('the trust file was read again'),
  onBroken: (error) =>
    log.error({ err: error }, 'the trust file was changed and cannot be used; the last one still holds'),
});
