import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import { QueryClient } from '@tanstack/react-query';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';

/** The key of the session's query, which everything on the page hangs on. */
export const SESSION_KEY = ['session'] as const;

const MAX_RETRIES = 2;
const FIRST_RETRY_MS = 400;
const STALE_MS = 10_000;

const sessionInCache = () => queryClient.getQueryData<{ readonly renewAtMs: number | undefined } | null>(SESSION_KEY);

/** Asks for the session again, once for all calls that wait for it. */
const askAgain = () => queryClient.refetchQueries({ queryKey: SESSION_KEY }, { cancelRefetch: false });

/**
 * Has the session renewed before a call, where it is time: the console renews it when it is asked for, and by no other
 * request. Where the credential is refused all the same, as after a sleep or by a clock that is ahead, the session is
 * asked for again and the call made once more; where it is over, the page shows the way to sign in.
 */
const keepSignedIn: Interceptor = (next) => async (request) => {
  if (Date.now() >= (sessionInCache()?.renewAtMs ?? Number.POSITIVE_INFINITY)) await askAgain();
  try {
    return await next(request);
  } catch (error) {
    if (ConnectError.from(error).code !== Code.Unauthenticated) throw error;
    await askAgain();
    if (request.stream || sessionInCache()?.renewAtMs === undefined) throw error;
    return next(request);
  }
};

const transportTo = (baseUrl: string) =>
  createConnectTransport({ baseUrl, useBinaryFormat: true, interceptors: [keepSignedIn] });

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
