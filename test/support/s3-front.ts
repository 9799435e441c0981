import { once } from 'node:events';
import { createServer, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';

/** One call to an S3 server. */
export interface S3Call {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
}

/** How a server differs from the one behind it. */
export interface S3Quirk {
  /** What it answers by itself: an S3 error, or nothing at all (`'hang up'`). Undefined: the call goes through. */
  readonly refuse?: (call: S3Call) => S3Refusal | 'hang up' | undefined;
  /** What becomes of an answer's text; `'lose'`: it never arrives. */
  readonly alter?: (text: string, call: S3Call) => string;
  /** How long an answer takes, in milliseconds. */
  readonly delayMs?: (call: S3Call) => number;
}

/** An error as S3 tells it. */
export interface S3Refusal {
  readonly status: number;
  readonly code: string;
  readonly message?: string;
}

/** A server in front of a real one. */
export interface S3Front {
  readonly endpoint: string;
  /** From the next call on; without a quirk it passes everything on. */
  behave(quirk?: S3Quirk): void;
  close(): void;
}

/** Starts a server that passes every call on to the one at `endpoint`, but for what its quirk changes. */
export async function startS3Front(endpoint: string, quirk: S3Quirk = {}): Promise<S3Front> {
  const { hostname, port } = new URL(endpoint);
  let now = quirk;
  const server = createServer((request, response) => {
    const { method = '', url: path = '', headers } = request;
    const call = { method, path, headers };
    const { refuse, alter, delayMs } = now;
    const refusal = refuse?.(call);
    if (refusal === 'hang up') return void request.destroy();
    if (refusal) {
      const { status, code, message = code } = refusal;
      request.resume().once('end', () => {
        response.writeHead(status, { 'content-type': 'application/xml' });
        response.end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`);
      });
      return;
    }
    const forward = (): void => {
      const onward = httpRequest({ hostname, port, method, path, headers }, async (answer) => {
        const status = answer.statusCode ?? 502;
        if (!alter) {
          response.writeHead(status, answer.headers);
          return void answer.pipe(response);
        }
        const text = alter((await buffer(answer)).toString('latin1'), call);
        if (text === 'lose') return void response.destroy();
        const bytes = Buffer.from(text, 'latin1');
        const { 'transfer-encoding': _, ...kept } = answer.headers;
        response.writeHead(status, method === 'HEAD' ? kept : { ...kept, 'content-length': bytes.length });
        response.end(bytes);
      });
      onward.on('error', () => response.destroy());
      request.pipe(onward);
    };
    setTimeout(forward, delayMs?.(call) ?? 0);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    behave(next = {}) {
      now = next;
    },
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** Whether it is DeleteObjects. */
export const isDeleteObjects = ({ method, path }: S3Call): boolean =>
  method === 'POST' && /[?&]delete(=|&|$)/.test(path);

/** Whether it is CompleteMultipartUpload. */
export const isComplete = ({ method, path }: S3Call): boolean => method === 'POST' && /[?&]uploadId=/.test(path);

/** Whether it lists anything of a bucket. */
export const isListing = ({ method, path }: S3Call): boolean =>
  method === 'GET' && /[?&](versions|uploads|list-type)(=|&|$)/.test(path);

/** Whether it goes on with a listing. */
export const goesOn = ({ path }: S3Call): boolean =>
  /[?&](key-marker|upload-id-marker|version-id-marker|continuation-token)=./.test(path);

/** Demands Content-MD5 on DeleteObjects, and knows no other checksum. */
export const DEMANDS_MD5: S3Quirk = {
  refuse: (call) =>
    isDeleteObjects(call) && call.headers['content-md5'] === undefined
      ? { status: 400, code: 'MissingContentMD5', message: 'Missing required header for this request: Content-MD5' }
      : undefined,
};

/** Tells that a listing goes on, and not where: elements of these names are left out. */
export const leavesOut = (...elements: readonly string[]): S3Quirk => ({
  alter: (text, call) =>
    isListing(call)
      ? elements.reduce((rest, name) => rest.replaceAll(new RegExp(`<${name}>[^<]*</${name}>`, 'g'), ''), text)
      : text,
});

/** Answers every page of a listing with the first. */
export function repeatsItsPage(): S3Quirk {
  const first = new Map<string, string>();
  return {
    alter(text, call) {
      if (!isListing(call)) return text;
      const kind = /[?&](versions|uploads|list-type)/.exec(call.path)?.[1] ?? '';
      if (!goesOn(call)) first.set(kind, text);
      return first.get(kind) ?? text;
    },
  };
}

/** Lists at most so many versions or uploads a page, however many it is asked for. */
export const listsAtMost = (most: number): S3Quirk => ({
  alter(text, call) {
    if (!isListing(call)) return text;
    const entries = [...text.matchAll(/<(Version|DeleteMarker|Upload)>.*?<\/\1>/gs)].map(([entry]) => entry);
    const last = entries[most - 1];
    if (entries.length <= most || !last) return text;
    const read = (name: string) => new RegExp(`<${name}>([^<]*)</${name}>`).exec(last)?.[1] ?? '';
    const id = last.startsWith('<Upload>')
      ? `<NextUploadIdMarker>${read('UploadId')}</NextUploadIdMarker>`
      : `<NextVersionIdMarker>${read('VersionId')}</NextVersionIdMarker>`;
    const markers = `<NextKeyMarker>${read('Key')}</NextKeyMarker>${id}`;
    return entries
      .slice(most)
      .reduce((rest, entry) => rest.replace(entry, ''), text)
      .replaceAll(/<(Next\w+Marker)>[^<]*<\/\1>/g, '')
      .replace(/<IsTruncated>\w+<\/IsTruncated>/, `<IsTruncated>true</IsTruncated>${markers}`);
  },
});
