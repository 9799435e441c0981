import { create, type DescMethod, fromJson, type JsonObject } from '@bufbuild/protobuf';
import anyTest, { type TestFn } from 'ava';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { Marks, textFieldsOf } from '#test/support/marks.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import { deleteInEveryWay, inFolder, METHODS, placesOfMarks } from '#test/support/what-stays.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack();
});
test.after.always((t) => t.context.stack?.dispose());

/** A request with a mark in every field that can hold text. */
function filled(method: DescMethod, markFor: (path: string) => string) {
  const json: Record<string, unknown> = {};
  const paths = textFieldsOf(method);
  for (const { path, kind } of paths) {
    const mark = markFor(`${method.name}.${path}`);
    const names = path.split('.');
    let message = method.input;
    let at: Record<string, unknown> = json;
    for (const [index, name] of names.entries()) {
      const field = message.fields.find((each) => each.name === name);
      if (!field) throw new Error(`${message.typeName} has no ${name}`);
      const isList = field.fieldKind === 'list';
      // Of a oneof only one can be sent: the first.
      if (field.oneof?.fields.some((other) => other !== field && other.jsonName in at)) break;
      if (index === names.length - 1) {
        const value = kind === 'json' ? { text: mark } : kind === 'bytes' ? Buffer.from(mark).toString('base64') : mark;
        at[field.jsonName] = isList ? [value] : value;
        break;
      }
      if (!field.message) throw new Error(`${path} goes through what is no message`);
      message = field.message;
      const known = at[field.jsonName] as Record<string, unknown> | Record<string, unknown>[] | undefined;
      const nested: Record<string, unknown> = (Array.isArray(known) ? known[0] : known) ?? {};
      at[field.jsonName] = isList ? [nested] : nested;
      at = nested;
    }
  }
  return fromJson(method.input, json as JsonObject);
}

test('every field of every RPC that takes text is known, and what a refused or reading call said stands nowhere', async (t) => {
  const { stack } = t.context;
  const marks = new Marks();
  const clients = {
    [JobService.typeName]: 'jobs',
    [RunService.typeName]: 'runs',
    [IncidentService.typeName]: 'incidents',
    [RetentionService.typeName]: 'retention',
  } as const;
  let refused = 0;
  for (const method of METHODS) {
    const name = clients[method.parent.typeName];
    if (!name) continue;
    for (const role of ['viewer', 'owner'] as const) {
      // biome-ignore lint/suspicious/noExplicitAny: the methods of all services, by name.
      const call = (stack.clients({ tenantId: 'what-refused', role })[name] as any)[method.localName];
      const request = filled(method, (field) => marks.put('refused', field));
      try {
        if (method.methodKind === 'server_streaming') for await (const _ of call(request));
        else if (method.methodKind === 'client_streaming') {
          await call(
            (async function* () {
              yield create(method.input, request);
            })(),
          );
        } else await call(request);
      } catch {
        refused += 1;
      }
    }
  }
  t.true(refused > 100);
  const found = [...(await placesOfMarks(stack, inFolder(stack)))].filter(([mark]) => marks.isKnown(mark));
  t.deepEqual(
    found.map(([mark, places]) => [marks.of(mark).field, places]),
    [],
  );
});

test('after each kind of deletion a text stands only where README says that it stays', async (t) => {
  t.timeout(300_000);
  await deleteInEveryWay(t, t.context.stack, inFolder(t.context.stack));
});
