import type { SettingsReader } from '#libs/kernel/settings.ts';
import type { ClientTlsFiles, ServerTlsFiles } from './tls.ts';

const isSet = (reader: SettingsReader, ...names: readonly string[]): boolean =>
  names.some((name) => reader.optional(name, String) !== undefined);

/** The files with which a server speaks TLS; undefined: it speaks plaintext. */
export function readServerTls(reader: SettingsReader): ServerTlsFiles | undefined {
  if (!isSet(reader, 'LETHE_TLS_CERT', 'LETHE_TLS_KEY', 'LETHE_TLS_CLIENT_CA')) return undefined;
  return {
    cert: reader.text('LETHE_TLS_CERT'),
    key: reader.text('LETHE_TLS_KEY'),
    clientCa: reader.optional('LETHE_TLS_CLIENT_CA', String),
  };
}

/** The files with which a client speaks TLS; undefined: it speaks plaintext. */
export function readClientTls(reader: SettingsReader): ClientTlsFiles | undefined {
  const hasOwn = isSet(reader, 'LETHE_TLS_CLIENT_CERT', 'LETHE_TLS_CLIENT_KEY');
  if (!hasOwn && !isSet(reader, 'LETHE_TLS_CA')) return undefined;
  const ca = reader.text('LETHE_TLS_CA');
  return hasOwn ? { ca, cert: reader.text('LETHE_TLS_CLIENT_CERT'), key: reader.text('LETHE_TLS_CLIENT_KEY') } : { ca };
}
