import { type DescFile, type DescMessage, type DescMethod, isFieldSet } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel as Level, MethodOptionsSchema, TimestampSchema } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import { file_lethe_incident_v1_incident_service } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { file_lethe_job_v1_job_service } from '#gen/lethe/job/v1/job_service_pb.ts';
import { file_lethe_owner_v1_owner_service } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { file_lethe_participant_v1_participant_service } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { file_lethe_retention_v1_retention_service } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { file_lethe_run_v1_run_service } from '#gen/lethe/run/v1/run_service_pb.ts';

// The rules that buf has no lint for.

const withImports = (file: DescFile): DescFile[] => [file, ...file.dependencies.flatMap(withImports)];

const files = [
  file_lethe_incident_v1_incident_service,
  file_lethe_job_v1_job_service,
  file_lethe_owner_v1_owner_service,
  file_lethe_participant_v1_participant_service,
  file_lethe_retention_v1_retention_service,
  file_lethe_run_v1_run_service,
].flatMap(withImports);
const ours = [...new Map(files.map((file) => [file.name, file])).values()].filter(({ name }) =>
  name.startsWith('lethe/'),
);
const methods = ours.flatMap((file) => file.services).flatMap((service) => service.methods);
const messages = ours.flatMap((file) => file.messages);

const nameOf = (method: DescMethod): string => `${method.parent.typeName}/${method.name}`;
const fieldNames = (message: DescMessage): string[] => message.fields.map(({ name }) => name);

test('every RPC states its idempotency', (t) => {
  t.true(methods.length > 60);
  const silent = methods.filter(({ proto }) => {
    return proto.options === undefined || !isFieldSet(proto.options, MethodOptionsSchema.field.idempotencyLevel);
  });
  t.deepEqual(silent.map(nameOf), []);
});

test('reads, and only reads, have no side effects', (t) => {
  const reads = /^(Check|Get|List|Count|Watch|Download|Preview|Resolve|Verify)/;
  const wrong = methods.filter(({ name, idempotency }) => reads.test(name) !== (idempotency === Level.NO_SIDE_EFFECTS));
  t.deepEqual(wrong.map(nameOf), []);
});

test('an RPC that is not idempotent by itself takes a request_id, which clients fill in', (t) => {
  const bare = methods.filter(({ idempotency, input }) => {
    return idempotency === Level.IDEMPOTENCY_UNKNOWN && !fieldNames(input).includes('request_id');
  });
  t.deepEqual(bare.map(nameOf), []);
});

test('every list is paged by page_size and page_token', (t) => {
  for (const method of methods.filter(({ name }) => name.startsWith('List'))) {
    const request = fieldNames(method.input);
    t.true(request.includes('page_size') && request.includes('page_token'), nameOf(method));
    t.true(fieldNames(method.output).includes('next_page_token'), nameOf(method));
  }
});

test('instants, and only instants, end in _time', (t) => {
  for (const field of messages.flatMap((message) => message.fields)) {
    const isInstant = field.message?.typeName === TimestampSchema.typeName;
    t.is(field.name.endsWith('_time'), isInstant, field.toString());
  }
});
