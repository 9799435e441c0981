import { X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { isIP } from 'node:net';
import { checkServerIdentity, createSecureContext, rootCertificates } from 'node:tls';
import { type ChannelCredentials, type ChannelOptions, experimental, type ServerCredentials } from '@grpc/grpc-js';

/** The files of a server that speaks TLS, in PEM. They are read again when they change. */
export interface ServerTlsFiles {
  /** The certificate, followed by those between it and the authority. */
  readonly cert: string;
  readonly key: string;
  /** Authorities of clients. Set: a client without a certificate of theirs is refused (mTLS). */
  readonly clientCa?: string | undefined;
}

/** The files of a client that speaks TLS, in PEM. They are read again when they change. */
export interface ClientTlsFiles {
  /** Authorities of servers; `system` are those that come with Node.js. */
  readonly ca: string;
  /** The client's own certificate, for servers that want one. */
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
}

/**
 * Told when files have changed: without a problem once what they hold is in use, and with one where they cannot be used;
 * then what was read before stays in use.
 */
export type OnCertificates = (problem: Error | undefined) => void;

/** Where the outcome of a change of certificates is logged. Clients have no logger, so this names none. */
export interface CertificateLog {
  error(problem: { readonly err: unknown }, message: string): void;
  info(message: string): void;
}

/** Logs what OnCertificates is told. */
export const logCertificates =
  (log: CertificateLog): OnCertificates =>
  (problem) => {
    if (problem) log.error({ err: problem }, 'new certificates cannot be used');
    else log.info('new certificates are in use');
  };

/** The value of ClientTlsFiles.ca that stands for the authorities that come with Node.js. */
export const SYSTEM_CA = 'system';

const RECHECK_MS = 1_000;

interface Identity {
  readonly certificate: Buffer;
  readonly privateKey: Buffer;
}

interface Loaded {
  readonly ca: Buffer | undefined;
  readonly identity: Identity | undefined;
}

type Files = Pick<ClientTlsFiles, 'cert' | 'key'> & { readonly ca: string | undefined };

/**
 * The credentials of a server. An Error names the files that cannot be used. A connection keeps the certificates it
 * began with; each new one has those that the files hold by then.
 */
export function makeServerCredentials(
  { cert, key, clientCa }: ServerTlsFiles,
  onCertificates: OnCertificates,
): ServerCredentials {
  const certificates = watchCertificates({ cert, key, ca: clientCa }, onCertificates);
  // The first is the server's own certificate, whatever grpc-js's types call it.
  return experimental.createCertificateProviderServerCredentials(
    certificates,
    clientCa === undefined ? null : certificates,
    clientCa !== undefined,
  );
}

/** The credentials of a client, and the channel options that an address of numbers needs. Otherwise as for a server. */
export function makeClientCredentials(
  address: string,
  { ca, cert, key }: ClientTlsFiles,
  onCertificates: OnCertificates,
): { readonly credentials: ChannelCredentials; readonly options: ChannelOptions } {
  const certificates = watchCertificates({ ca, cert, key }, onCertificates);
  const host = /^\[?(.+?)\]?:\d+$/.exec(address)?.[1] ?? '';
  const isNumeric = isIP(host) !== 0;
  const credentials = experimental.createCertificateProviderChannelCredentials(
    certificates,
    cert === undefined ? null : certificates,
    isNumeric ? { checkServerIdentity: (_, peer) => checkServerIdentity(host, peer) } : {},
  );
  // TLS cannot ask for a server by its IP address, and Node.js refuses to; what the certificate says is still checked.
  return { credentials, options: isNumeric ? { 'grpc.ssl_target_name_override': 'ip-address.invalid' } : {} };
}

/** Reads certificates now and whenever their files change, for as long as somebody listens. */
function watchCertificates(files: Files, onCertificates: OnCertificates): experimental.CertificateProvider {
  const caListeners = new Set<experimental.CaCertificateUpdateListener>();
  const identityListeners = new Set<experimental.IdentityCertificateUpdateListener>();
  let seen = signatureOf(files);
  let loaded = load(files);
  let problem: string | undefined;
  let timer: NodeJS.Timeout | undefined;

  const tellCa = (listener: experimental.CaCertificateUpdateListener): void =>
    listener(loaded.ca ? { caCertificate: loaded.ca } : null);
  const tellIdentity = (listener: experimental.IdentityCertificateUpdateListener): void =>
    listener(loaded.identity ?? null);
  const recheck = (): void => {
    try {
      const signature = signatureOf(files);
      if (signature === seen) return;
      loaded = load(files);
      seen = signature;
      problem = undefined;
    } catch (error) {
      // Files that are being replaced one by one may not fit each other yet; they are tried again.
      const { message } = error as Error;
      if (message !== problem) onCertificates(error as Error);
      problem = message;
      return;
    }
    for (const listener of identityListeners) tellIdentity(listener);
    for (const listener of caListeners) tellCa(listener);
    onCertificates(undefined);
  };
  const watch = (): void => {
    if (timer) return;
    // Nobody has looked since the last one who listened went.
    recheck();
    timer = setInterval(recheck, RECHECK_MS).unref();
  };
  const unwatch = (): void => {
    if (caListeners.size + identityListeners.size > 0) return;
    clearInterval(timer);
    timer = undefined;
  };
  return {
    addCaCertificateListener(listener) {
      watch();
      caListeners.add(listener);
      process.nextTick(tellCa, listener);
    },
    removeCaCertificateListener(listener) {
      caListeners.delete(listener);
      unwatch();
    },
    addIdentityCertificateListener(listener) {
      watch();
      identityListeners.add(listener);
      process.nextTick(tellIdentity, listener);
    },
    removeIdentityCertificateListener(listener) {
      identityListeners.delete(listener);
      unwatch();
    },
  };
}

const pathsOf = ({ cert, key, ca }: Files): string[] =>
  [cert, key, ca === SYSTEM_CA ? undefined : ca].filter((path) => path !== undefined);

/** What changes when one of the files does, also where only a link to it is turned. */
const signatureOf = (files: Files): string =>
  pathsOf(files)
    .map((path) => {
      const { ino, mtimeNs, size } = statOf(path);
      return `${ino} ${mtimeNs} ${size}`;
    })
    .join();

/** Reads the files; an Error that names the file, never its content, for one that cannot be used. */
function load({ cert, key, ca }: Files): Loaded {
  const authorities = ca === SYSTEM_CA ? Buffer.from(rootCertificates.join('\n')) : ca && contentOf(ca);
  if (authorities && ca) assertUsable(ca, 'holds no certificate', () => new X509Certificate(authorities));
  if (cert === undefined || key === undefined) return { ca: authorities || undefined, identity: undefined };
  const [certificate, privateKey] = [contentOf(cert), contentOf(key)];
  assertUsable(cert, 'holds no certificate', () => new X509Certificate(certificate));
  assertUsable(key, `is not the private key of ${cert}`, () =>
    createSecureContext({ cert: certificate, key: privateKey }),
  );
  return { ca: authorities || undefined, identity: { certificate, privateKey } };
}

function assertUsable(path: string, problem: string, use: () => unknown): void {
  try {
    use();
  } catch {
    // The error may hold what it could not read.
    throw new Error(`${path} ${problem}`);
  }
}

const statOf = (path: string) => orUnreadable(path, () => statSync(path, { bigint: true }));
const contentOf = (path: string): Buffer => orUnreadable(path, () => readFileSync(path));

function orUnreadable<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new Error(`${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}
