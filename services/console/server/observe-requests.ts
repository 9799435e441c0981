import { Histogram } from '@prometheus-io/client';
import type { FastifyInstance } from 'fastify';
import type { Logger } from '#libs/telemetry/logger.ts';
import type { Metrics } from '#libs/telemetry/metrics.ts';

/** Measures and logs every answered request, and gives each answer the id of its request. */
export function observeRequests(app: FastifyInstance, { metrics, log }: { metrics: Metrics; log: Logger }): void {
  const durations = new Histogram({
    name: 'lethe_http_request_duration_seconds',
    help: 'Duration of HTTP requests by route, method and status.',
    labelNames: ['route', 'method', 'status'],
    buckets: [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10],
    registers: [metrics.registry],
  });
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
  });
  app.addHook('onResponse', async (request, reply) => {
    // The route as it was registered: a path would make a figure for every id, and a query may hold a secret.
    const route = request.routeOptions.url ?? 'unknown';
    const { method, id: requestId } = request;
    const { statusCode: status, elapsedTime: durationMs } = reply;
    durations.observe({ route, method, status: String(status) }, durationMs / 1_000);
    log.debug({ requestId, method, route, status, durationMs: Math.round(durationMs) }, 'request answered');
  });
}
