import { create } from '@bufbuild/protobuf';
import { createContextValues, type HandlerContext } from '@connectrpc/connect';
import test from 'ava';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { DownloadArtifactRequestSchema } from '#gen/lethe/job/v1/job_service_pb.ts';
import { CALLER } from '#libs/grpc/caller.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { CALLER as ADA, artifactOf, JOB, partOf } from '../../use-cases/fakes.fixture.ts';
import { type JobUseCases, jobService } from './job-service.ts';

async function* endless(): AsyncIterable<Uint8Array> {
  for (;;) yield Buffer.from('a');
}

/** A service whose artifacts never end, and what begins a download of a tenant's. */
function fixture() {
  const { downloadArtifact } = jobService(
    partOf<JobUseCases>({ downloadArtifact: async () => ({ artifact: artifactOf(), body: endless() }) }),
  );
  const request = create(DownloadArtifactRequestSchema, { jobId: JOB, kind: ArtifactKind.INPUT, name: 'a' });
  return async (tenantId: string) => {
    const values = createContextValues().set(CALLER, { ...ADA, tenantId });
    const context = { values, signal: new AbortController().signal } as unknown as HandlerContext;
    const answers = downloadArtifact?.(request, context)[Symbol.asyncIterator]();
    await answers?.next();
    return { end: async () => void (await answers?.return?.()) };
  };
}

const reasonOf = async (begun: Promise<unknown>): Promise<string> =>
  begun.then(
    () => 'OK',
    (error: unknown) => (error instanceof DomainError ? error.reason : String(error)),
  );

test('one tenant’s slow downloads leave other tenants theirs, and one that ends makes room', async (t) => {
  const begin = fixture();
  const downloads = await Promise.all(Array.from({ length: 128 }, () => begin('acme')));
  t.is(await reasonOf(begin('acme')), 'TOO_MANY_STREAMS');
  t.is(await reasonOf(begin('globex')), 'OK');
  await downloads[0]?.end();
  t.is(await reasonOf(begin('acme')), 'OK');
  t.is(await reasonOf(begin('acme')), 'TOO_MANY_STREAMS');
});

test('a process gives out a bounded number of downloads, whoever they are for', async (t) => {
  const begin = fixture();
  for (const tenantId of ['a', 'b', 'c', 'd']) {
    await Promise.all(Array.from({ length: 128 }, () => begin(tenantId)));
  }
  t.is(await reasonOf(begin('e')), 'TOO_MANY_STREAMS');
});
