import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:tls';
import { decodeJwt } from 'jose';
import type { ClientTlsFiles } from '#libs/grpc/tls.ts';
import { type Finding, findingsOf } from './finding.ts';

const DAY_MS = 86_400_000;
const CERTIFICATE_DAYS = 30;
const CONNECT_MS = 3_000;

/** Until when a token is good. A token that is no JWT tells nothing. */
export function lookAtToken(token: string, origin: string): readonly Finding[] {
  const { ok, warning, failed } = findingsOf('sign-in');
  const { sub = 'somebody', exp, iat } = claimsOf(token);
  const who = `${sub}, by ${origin}`;
  if (exp === undefined) return [ok('TOKEN', `You are ${who}.`)];
  const leftMs = exp * 1_000 - Date.now();
  const wholeMs = (exp - (iat ?? exp)) * 1_000;
  const until = new Date(exp * 1_000).toISOString();
  if (leftMs <= 0) return [failed('TOKEN', `The token of ${who} expired at ${until}.`, 'Get a new one.')];
  // Tokens that are signed for each command are always young.
  if (leftMs < wholeMs / 10)
    return [warning('TOKEN', `The token of ${who} expires at ${until}.`, 'Get a new one soon.')];
  return [ok('TOKEN', `You are ${who}, until ${until}.`)];
}

function claimsOf(token: string): Partial<ReturnType<typeof decodeJwt>> {
  try {
    return decodeJwt(token);
  } catch {
    return {};
  }
}

/** Until when the certificate to call with is good. */
export async function lookAtOwnCertificate({ cert }: ClientTlsFiles): Promise<readonly Finding[]> {
  if (cert === undefined) return [];
  const text = await readFile(cert).catch(() => undefined);
  if (!text) return [];
  return [aboutCertificate('certificate', `Your certificate ${cert}`, new X509Certificate(text).validTo)];
}

/** Until when the certificate of a service is good; nothing where the address is no host:port or nobody answers. */
export async function lookAtServiceCertificate(service: string, address: string): Promise<readonly Finding[]> {
  const [, host, port] = /^([^:/]+):(\d+)$/.exec(address) ?? [];
  if (host === undefined) return [];
  const validTo = await peerValidTo(host, Number(port));
  return validTo === undefined ? [] : [aboutCertificate(service, 'Its certificate', validTo)];
}

/** Only the date is read; whether the certificate is trusted is for the call itself. */
function peerValidTo(host: string, port: number): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const socket = connect({ host, port, ALPNProtocols: ['h2'], rejectUnauthorized: false, timeout: CONNECT_MS });
  socket.once('secureConnect', () => resolve(socket.getPeerCertificate().valid_to));
  for (const event of ['error', 'timeout', 'close']) socket.once(event, () => resolve(undefined));
  return promise.finally(() => socket.destroy());
}

function aboutCertificate(of: string, what: string, validTo: string): Finding {
  const { ok, warning, failed } = findingsOf(of);
  const leftMs = Date.parse(validTo) - Date.now();
  const until = new Date(validTo).toISOString();
  if (leftMs <= 0)
    return failed('CERTIFICATE', `${what} expired at ${until}.`, 'Replace it; its files are read again.');
  if (leftMs > CERTIFICATE_DAYS * DAY_MS) return ok('CERTIFICATE', `${what} is good until ${until}.`);
  return warning('CERTIFICATE', `${what} expires at ${until}.`, 'Replace it; its files are read again.');
}
