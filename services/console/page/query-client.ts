import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import { QueryClient } from '@tanstack/react-query';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';

/** The key of the session's query, which everything on the page hangs on. */
export const SESSION_KEY = ['session'] as const;

const MAX_RETRIES = 2;
const FIRST_RETRY_MS = 400;
const STALE_MS = 10_000;

// A refused or expired credential: the session is asked for again, and the page shows the way to sign in.
const noticeSignedOut: Interceptor = (next) => async (request) => {
  try {
    return await next(request);
  } catch (error) {
    if (ConnectError.from(error).code === Code.Unauthenticated) {
      await queryClient.invalidateQueries({ queryKey: SESSION_KEY });
    }
    throw error;
  }
};

const transportTo = (baseUrl: string) =>
  createConnectTransport({ baseUrl, useBinaryFormat: true, interceptors: [noticeSignedOut] });

/** Speaks to the console's own origin, which forwards each call to its service with the credential of the session. */
export const transport = transportTo('/rpc');

/** The same for an RPC that every service has: to the one with this name. */
export const transportOf = (service: string) => transportTo(`/rpc/${service}`);

/**
 * Whether the same call may well be answered later. What a service refused it will refuse again; what did not answer,
 * or said that something behind it did not, is worth another attempt.
 */
export function isPassing(error: unknown): boolean {
  const { code } = ConnectError.from(error);
  if (code === Code.Unavailable || code === Code.DeadlineExceeded) return true;
  const isAnswer = ConnectError.from(error).findDetails(ErrorInfoSchema).length > 0;
  return !isAnswer && (code === Code.Unknown || code === Code.Internal);
}

/** The page's cache. Reads are repeated a little while a service does not answer; changes never by themselves. */
export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: STALE_MS,
      retry: (failures, error) => failures < MAX_RETRIES && isPassing(error),
      retryDelay: (failures) => FIRST_RETRY_MS * 2 ** failures,
    },
    mutations: { retry: false },
  },
});
