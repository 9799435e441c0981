import type { Http2Server, IncomingHttpHeaders } from 'node:http2';
import type { Server } from '@grpc/grpc-js';

/** The undocumented part of grpc-js that is needed here: the servers that it listens with. */
interface Insides {
  readonly http2Servers: ReadonlyMap<Http2Server, unknown>;
}

const TIMEOUT = 'grpc-timeout';
const MS_OF_UNIT: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000 };
// In milliseconds grpc-js has room for 31 bits.
const MOST_SECONDS = 2_147_483;

/**
 * Shortens the deadlines of calls to a server that listens to what grpc-js can keep, 24 days. It would take one that is
 * further away for one that has passed.
 */
export function boundDeadlines(server: Server): void {
  for (const http2 of (server as unknown as Insides).http2Servers.keys()) {
    http2.prependListener('stream', (_stream, headers: IncomingHttpHeaders) => {
      const [, count, unit = ''] = /^(\d{1,8})([HMS])$/.exec(String(headers[TIMEOUT])) ?? [];
      const ms = Number(count) * (MS_OF_UNIT[unit] ?? 0);
      if (ms > MOST_SECONDS * 1_000) headers[TIMEOUT] = `${MOST_SECONDS}S`;
    });
  }
}
