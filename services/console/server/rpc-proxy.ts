import type { DescMethod, DescService } from '@bufbuild/protobuf';
import { createContextKey, createContextValues, type HandlerContext } from '@connectrpc/connect';
import { fastifyConnectPlugin } from '@connectrpc/connect-fastify';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import { toConnectError } from '#libs/grpc/status.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { Metrics } from '#libs/telemetry/metrics.ts';
import { UPSTREAMS, type UpstreamName, type Upstreams } from './connect-upstreams.ts';
import { tellUpstreamError } from './upstream-error.ts';

/** What the proxy works with. */
export interface RpcProxyOptions {
  readonly upstreams: Upstreams;
  readonly metrics: Metrics;
  /** How long calls may take to end once the server is to stop. */
  readonly drainMs: number;
}

// Watches stay open for as long as somebody looks.
const MAX_TIMEOUT_MS = 24 * 60 * 60 * 1_000;
const MAX_MESSAGE_BYTES = 4 * 1_024 * 1_024;

interface Incoming {
  readonly token: string | undefined;
  readonly requestId: string;
}

const INCOMING = createContextKey<Incoming | undefined>(undefined, { description: 'who calls' });

/**
 * Serves every RPC of the services below /rpc over Connect and gRPC-Web, and forwards it over gRPC with the caller's own
 * token. StatusService, which every service has, is below /rpc/run, /rpc/job and so on. A caller that goes away, or whose
 * time is up, ends the call at the service too. An error comes back as the service told it, with its details. Uploads are
 * UNIMPLEMENTED: a browser cannot stream them.
 *
 * `request.credential` must have been set by then.
 */
export async function proxyRpcs(app: FastifyInstance, options: RpcProxyOptions): Promise<void> {
  const { upstreams, metrics } = options;
  const names = Object.keys(UPSTREAMS) as UpstreamName[];
  await app.register(fastifyConnectPlugin, {
    ...pluginOptions(options, '/rpc'),
    routes(router) {
      for (const name of names) {
        const service: DescService = UPSTREAMS[name];
        router.service(
          service,
          forwardAll(service, name, (token) => upstreams.client(service, token), metrics),
        );
      }
    },
  });
  for (const name of names) {
    await app.register(fastifyConnectPlugin, {
      ...pluginOptions(options, `/rpc/${name}`),
      routes(router) {
        const clientOf = (token: string) => upstreams.status(name, token);
        router.service(StatusService as DescService, forwardAll(StatusService, name, clientOf, metrics));
      },
    });
  }
}

const pluginOptions = ({ drainMs }: RpcProxyOptions, prefix: string) => ({
  prefix,
  grpc: false,
  maxTimeoutMs: MAX_TIMEOUT_MS,
  readMaxBytes: MAX_MESSAGE_BYTES,
  shutdownTimeoutMs: drainMs,
  contextValues: (request: FastifyRequest) =>
    createContextValues().set(INCOMING, { token: request.credential?.token, requestId: request.id }),
});

// biome-ignore lint/suspicious/noExplicitAny: the message types of a method are known to its descriptor only.
type AnyMessage = any;
type Calls = Readonly<Record<string, (request: AnyMessage, options: object) => AnyMessage>>;

/** Makes a client of the service whose calls carry this token. */
type ClientOf = (token: string) => object;

const forwardAll = (service: DescService, name: UpstreamName, clientOf: ClientOf, metrics: Metrics) =>
  Object.fromEntries(
    service.methods.map((method): [string, AnyMessage] => [method.localName, forward(method, name, clientOf, metrics)]),
  );

function forward(method: DescMethod, name: UpstreamName, clientOf: ClientOf, metrics: Metrics) {
  const rpc = `${method.parent.typeName}/${method.name}`;
  const call = (request: AnyMessage, context: HandlerContext): AnyMessage => {
    const { token, requestId } = context.values.get(INCOMING) ?? {};
    if (!token)
      throw toConnectError(new DomainError('unauthenticated', 'TOKEN_MISSING', 'The call has no bearer token.'));
    const calls = clientOf(token) as Calls;
    const timeoutMs = context.timeoutMs();
    return calls[method.localName]?.(request, {
      signal: context.signal,
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(requestId === undefined ? {} : { headers: { 'x-request-id': requestId } }),
    });
  };
  const finish = (startedAt: number, error?: unknown): unknown => {
    const told = error === undefined ? undefined : tellUpstreamError(name, error);
    metrics.rpcFinished(rpc, told?.code ?? 0, performance.now() - startedAt);
    return told;
  };
  switch (method.methodKind) {
    case 'unary':
      return async (request: AnyMessage, context: HandlerContext) => {
        const startedAt = performance.now();
        try {
          const answer = await call(request, context);
          finish(startedAt);
          return answer;
        } catch (error) {
          throw finish(startedAt, error);
        }
      };
    case 'server_streaming':
      return async function* (request: AnyMessage, context: HandlerContext) {
        const startedAt = performance.now();
        try {
          yield* call(request, context);
          finish(startedAt);
        } catch (error) {
          throw finish(startedAt, error);
        }
      };
    default:
      return () => {
        const message = `${method.name} takes a stream, which browsers cannot send; call ${method.parent.typeName} over gRPC.`;
        throw toConnectError(new DomainError('unimplemented', 'UNIMPLEMENTED', message));
      };
  }
}
