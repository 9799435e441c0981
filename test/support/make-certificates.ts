import { generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto';

/** A certificate and its private key, both as PEM. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** A certificate authority of a test. */
export interface Authority {
  /** Its own certificate, as PEM: what is trusted. */
  readonly cert: string;
  /** A certificate for these host names and IPv4 addresses, good for a server and for a client. */
  issue(names: readonly string[]): Certificate;
}

// X.509 in as much DER as a test needs: version 3, ECDSA over P-256 with SHA-256, good from yesterday for a month.

type Bytes = Buffer;

function der(tag: number, ...parts: readonly Bytes[]): Bytes {
  const content = Buffer.concat(parts);
  const { length } = content;
  if (length < 0x80) return Buffer.concat([Buffer.of(tag, length), content]);
  const bytes = Buffer.from(length.toString(16).padStart(length > 0xff ? 4 : 2, '0'), 'hex');
  return Buffer.concat([Buffer.of(tag, 0x80 | bytes.length), bytes, content]);
}

const sequence = (...parts: readonly Bytes[]): Bytes => der(0x30, ...parts);
const integer = (bytes: Bytes): Bytes => der(0x02, bytes);
const bits = (bytes: Bytes): Bytes => der(0x03, Buffer.of(0), bytes);
const octets = (bytes: Bytes): Bytes => der(0x04, bytes);
const oid = (hex: string): Bytes => der(0x06, Buffer.from(hex, 'hex'));
const time = (at: number): Bytes =>
  der(
    0x17,
    Buffer.from(
      `${new Date(at)
        .toISOString()
        .replaceAll(/[-:T]|\.\d+/g, '')
        .slice(2)}`,
      'ascii',
    ),
  );
const commonName = (name: string): Bytes =>
  sequence(der(0x31, sequence(oid('550403'), der(0x0c, Buffer.from(name, 'utf8')))));
const extension = (id: string, value: Bytes, isCritical = false): Bytes =>
  sequence(oid(id), ...(isCritical ? [der(0x01, Buffer.of(0xff))] : []), octets(value));

const ECDSA_SHA256 = sequence(oid('2a8648ce3d040302'));
const DAY_MS = 86_400_000;

const nameOf = (name: string): Bytes =>
  /^[\d.]+$/.test(name) ? der(0x87, Buffer.from(name.split('.').map(Number))) : der(0x82, Buffer.from(name, 'ascii'));

interface Contents {
  readonly subject: string;
  readonly issuer: string;
  readonly publicKey: KeyObject;
  readonly signedBy: KeyObject;
  readonly extensions: readonly Bytes[];
}

function makeCertificate({ subject, issuer, publicKey, signedBy, extensions }: Contents): string {
  const now = Date.now();
  const content = sequence(
    der(0xa0, integer(Buffer.of(2))),
    // Positive, and the same twice never.
    integer(Buffer.concat([Buffer.of(1), randomBytes(15)])),
    ECDSA_SHA256,
    commonName(issuer),
    sequence(time(now - DAY_MS), time(now + 30 * DAY_MS)),
    commonName(subject),
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(...extensions)),
  );
  const whole = sequence(content, ECDSA_SHA256, bits(sign('sha256', content, signedBy)));
  const lines = whole.toString('base64').replaceAll(/.{64}(?=.)/g, '$&\n');
  return `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`;
}

/** Makes an authority of this name. */
export function makeAuthority(name: string): Authority {
  const own = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const isAuthority = sequence(der(0x01, Buffer.of(0xff)));
  const cert = makeCertificate({
    subject: name,
    issuer: name,
    publicKey: own.publicKey,
    signedBy: own.privateKey,
    extensions: [extension('551d13', isAuthority, true)],
  });
  return {
    cert,
    issue(names) {
      const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const issued = makeCertificate({
        subject: names[0] ?? 'nobody',
        issuer: name,
        publicKey,
        signedBy: own.privateKey,
        extensions: [extension('551d11', sequence(...names.map(nameOf)))],
      });
      return { cert: issued, key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string };
    },
  };
}
