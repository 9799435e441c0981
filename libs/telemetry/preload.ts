/**
 * Traces by OpenTelemetry, when OTEL_EXPORTER_OTLP_ENDPOINT says where to. It has to run before anything that it
 * instruments: `node --import ./libs/telemetry/preload.ts services/run/main.ts`.
 */
import { register } from 'node:module';
import { flushAtExit } from './flush-at-exit.ts';

if (process.env['OTEL_EXPORTER_OTLP_ENDPOINT']) {
  // Without the loader hook nothing is instrumented under ESM, and no span is ever made.
  register('@opentelemetry/instrumentation/hook.mjs', import.meta.url);
  const [{ NodeSDK }, { GrpcInstrumentation }, { PgInstrumentation }] = await Promise.all([
    import('@opentelemetry/sdk-node'),
    import('@opentelemetry/instrumentation-grpc'),
    import('@opentelemetry/instrumentation-pg'),
  ]);
  const sdk = new NodeSDK({ instrumentations: [new GrpcInstrumentation(), new PgInstrumentation()] });
  sdk.start();
  flushAtExit(() => sdk.shutdown());
}
