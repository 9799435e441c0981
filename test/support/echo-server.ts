import { create, createFileRegistry } from '@bufbuild/protobuf';
import type { GenService } from '@bufbuild/protobuf/codegenv2';
import {
  FileDescriptorProtoSchema,
  file_google_protobuf_wrappers,
  type MethodDescriptorProto,
  type StringValueSchema,
} from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import { pino } from 'pino';
import type { Rule } from '#libs/auth/authorize.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { type RunningServer, type ServerLimits, type ServerOptions, startServer } from '#libs/grpc/server.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import { makeMetrics } from '#libs/telemetry/metrics.ts';

type Text = typeof StringValueSchema;

/** A service with one RPC of each kind that gRPC has; texts go in and out. */
export type EchoService = GenService<{
  one: { methodKind: 'unary'; input: Text; output: Text };
  up: { methodKind: 'client_streaming'; input: Text; output: Text };
  down: { methodKind: 'server_streaming'; input: Text; output: Text };
  both: { methodKind: 'bidi_streaming'; input: Text; output: Text };
}>;

const text = '.google.protobuf.StringValue';
const rpc = (name: string, clientStreaming: boolean, serverStreaming: boolean): Partial<MethodDescriptorProto> => ({
  name,
  inputType: text,
  outputType: text,
  clientStreaming,
  serverStreaming,
});

/** Its descriptor, which no .proto file of the product has to hold. */
export const ECHO = createFileRegistry(
  create(FileDescriptorProtoSchema, {
    name: 'lethe/test/v1/echo_service.proto',
    package: 'lethe.test.v1',
    syntax: 'proto3',
    dependency: [file_google_protobuf_wrappers.proto.name],
    service: [
      {
        name: 'EchoService',
        method: [
          rpc('One', false, false),
          rpc('Up', true, false),
          rpc('Down', false, true),
          rpc('Both', true, true),
        ] as MethodDescriptorProto[],
      },
    ],
  }),
  () => file_google_protobuf_wrappers,
).getService('lethe.test.v1.EchoService') as EchoService;

/** Who calls. */
export const CALLER_OF_ECHO: Caller = Object.freeze({
  subject: 'ada',
  kind: 'user',
  tenantId: 'acme',
  role: 'viewer',
  scopes: new Set(['echo']),
  actor: 'ada',
});

/** Every RPC of it is for viewers. */
export const RULES = Object.fromEntries(
  ECHO.methods.map(({ name }) => [`${ECHO.typeName}/${name}`, { scope: 'echo', role: 'viewer' } as const]),
);

/** Which of its RPCs are watches. */
interface Watches {
  readonly watches?: readonly (keyof EchoService['method'])[];
}

/** Serves it on a free port; who calls is CALLER_OF_ECHO, whatever the token, unless told. */
export const startEchoServer = (
  implementation: Partial<ServiceImpl<EchoService>>,
  limits: Partial<ServerLimits> = {},
  policy: Readonly<Record<string, Rule>> = RULES,
  { watches, ...more }: Partial<Pick<ServerOptions, 'tls' | 'reflection' | 'log' | 'verifyToken'>> & Watches = {},
): Promise<RunningServer> =>
  startServer({
    address: '127.0.0.1:0',
    services: [bindService(ECHO, implementation, watches)],
    verifyToken: async () => CALLER_OF_ECHO,
    policy,
    log: pino({ level: 'silent' }),
    metrics: makeMetrics('echo'),
    limits,
    ...more,
  });
