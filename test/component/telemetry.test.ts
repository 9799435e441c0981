import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { json } from 'node:stream/consumers';
import test from 'ava';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, until } from '#test/support/test-stack.ts';

interface Span {
  readonly name: string;
  readonly kind: number;
  readonly traceId: string;
  readonly parentSpanId?: string;
  readonly attributes: readonly { readonly key: string; readonly value: { readonly stringValue?: string } }[];
}

/** A receiver of traces by OTLP over HTTP, and all spans that came. */
async function startReceiver() {
  const spans: Span[] = [];
  const server = createServer(async (request, response) => {
    const { resourceSpans = [] } = (await json(request)) as {
      resourceSpans?: { scopeSpans: { spans: Span[] }[] }[];
    };
    for (const { scopeSpans } of resourceSpans) for (const scope of scopeSpans) spans.push(...scope.spans);
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return { spans, url: `http://127.0.0.1:${port}`, close: () => server.close() };
}

test('with OTEL_* set a service tells of its calls, and of the statements in them, in one trace, also when it stops', async (t) => {
  const receiver = await startReceiver();
  t.teardown(receiver.close);
  const stack = await startTestStack({
    services: ['job'],
    // A bundle imports nothing that could be instrumented.
    fromSources: true,
    env: {
      NODE_OPTIONS: '--import ./libs/telemetry/preload.ts',
      OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url,
      OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
      OTEL_SERVICE_NAME: 'job',
      OTEL_BSP_SCHEDULE_DELAY: '100',
    },
  });
  t.teardown(() => stack.dispose());
  const token = await stack.token({ tenantId: 'traced', role: 'member' });
  const { jobs } = stack.clients({ tenantId: 'traced', role: 'member' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  // At once, so that their statements share a write: each is still part of its own call.
  const reads = 8;
  await Promise.all(Array.from({ length: reads }, () => jobs.getJob({ jobId })));

  const rpcsOf = (name: string) =>
    receiver.spans.filter((span) => span.kind === 2 && span.name.endsWith(`lethe.job.v1.JobService/${name}`));
  await until('the calls are told', async () => rpcsOf('CreateJob').length + rpcsOf('GetJob').length > reads, 60_000);
  for (const { traceId } of [...rpcsOf('CreateJob'), ...rpcsOf('GetJob')]) {
    const isStatement = (span: Span): boolean => span.traceId === traceId && span.name.startsWith('pg.query');
    await until('the statements are told', async () => receiver.spans.some(isStatement), 60_000);
  }
  t.false(JSON.stringify(receiver.spans).includes(token.split('.')[1] ?? token));

  await stack.restart('job', { OTEL_BSP_SCHEDULE_DELAY: '600000' });
  const told = rpcsOf('ListJobs').length;
  await jobs.listJobs({});
  t.is(rpcsOf('ListJobs').length, told, 'it keeps them for a while');
  await stack.restart('job', {});
  t.is(rpcsOf('ListJobs').length, told + 1, 'what it kept is told when it stops');
});

test('the log of a service at its most talkative holds neither token nor key nor password', async (t) => {
  const stack = await startTestStack({ services: ['job'], env: { LETHE_LOG_LEVEL: 'trace' } });
  t.teardown(() => stack.dispose());
  const { jobs } = stack.clients({ tenantId: 'talks', role: 'member' });
  const token = await stack.token({ tenantId: 'talks', role: 'member' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  await jobs.getJob({ jobId });
  await t.throwsAsync(jobs.deleteJob({ jobId }));
  const lying = connect({ address: stack.addresses.job, token: async () => `${token.slice(0, -6)}AAAAAA` });
  t.teardown(() => lying.close());
  await t.throwsAsync(lying.client(JobService).getJob({ jobId }));
  // A call that fails inside is logged with what the driver said.
  await queryOnce(stack.superuserUrl('job'), 'alter table jobs add check (version < 0) not valid');
  await t.throwsAsync(jobs.createJob({}));
  const log = await readFile(join(stack.folder, 'logs/job.log'), 'utf8');
  t.regex(log, /call finished/);
  t.regex(log, /call failed inside/);
  const { d } = JSON.parse(await readFile(stack.userKeyFile, 'utf8')) as { d: string };
  const { password } = new URL(stack.superuserUrl('job'));
  for (const secret of [...token.split('.').slice(1), d, password]) t.false(log.includes(secret));
  t.notRegex(log, /\/\/[^/\s:"]+:(?!\[redacted\])[^@\s"]+@/);
});
