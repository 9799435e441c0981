import test from 'ava';
import fc from 'fast-check';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { type ArtifactKind, jobPrefix, objectKey, parseArtifactName, parseObjectKey } from './artifact.ts';

/** The key of an upload's object; of one from before uploads had keys, where that is null. */
const keyOf = (tenantId: string, jobId: string, kind: ArtifactKind, name: string, upload: string | null = 'upload') =>
  objectKey(tenantId, { jobId, kind, name, objectId: upload ?? undefined });

for (const name of ['', '.', '..', '../x', 'a/b', '/a', 'a\\b', '.hidden', '-x', 'a b', 'ä', 'a\0', 'a'.repeat(201)]) {
  test(`${JSON.stringify(name.slice(0, 20))} is no name of an artifact`, (t) => {
    t.like(
      t.throws(() => parseArtifactName('header.name', name), { instanceOf: DomainError }),
      { reason: 'FIELD_INVALID', metadata: { fields: 'header.name' } },
    );
  });
}

test('a name that is taken stays one segment below its own job, whatever it is', (t) => {
  fc.assert(
    fc.property(fc.string(), (name) => {
      try {
        parseArtifactName('name', name);
      } catch {
        return true;
      }
      const key = keyOf('acme', 'job', 'INPUT', name);
      const fromBefore = keyOf('acme', 'job', 'INPUT', name, null);
      return (
        key === `tenants/acme/jobs/job/input/upload-${name}` &&
        fromBefore === `tenants/acme/jobs/job/input/${name}` &&
        key.split('/').length === 6 &&
        !name.startsWith('.')
      );
    }),
  );
  t.pass();
});

test("a job's prefix holds no other job and no other tenant", (t) => {
  t.false(keyOf('acme', '10', 'OUTPUT', 'a').startsWith(jobPrefix('acme', '1')));
  t.false(keyOf('acme-2', '1', 'TASK', 'a').startsWith(jobPrefix('acme', '1')));
  t.true(keyOf('acme', '1', 'TASK', 'a').startsWith(`${jobPrefix('acme', '1')}tasks/`));
});

test('no two uploads of one artifact have the same key', (t) => {
  t.not(keyOf('acme', '1', 'TASK', 'a', 'one'), keyOf('acme', '1', 'TASK', 'a', 'other'));
});

test('the object of a key is read back from it, whoever named it', (t) => {
  const [jobId, objectId] = ['01890000-0000-7000-8000-000000000001', '01890000-0000-7000-8000-000000000002'];
  for (const ref of [
    { jobId, kind: 'INPUT', name: 'a-b.wav', objectId },
    { jobId, kind: 'OUTPUT', name: 'a', objectId: undefined },
    { jobId, kind: 'TASK', name: `${objectId}-x`, objectId: undefined },
  ] as const) {
    const refs = parseObjectKey('acme', objectKey('acme', ref));
    t.true(refs.some((found) => objectKey('acme', found) === objectKey('acme', ref) && found.name === ref.name));
  }
  for (const key of ['tenants/acme/jobs/readme/input/a', `tenants/acme/jobs/${jobId}/else/a`, 'tenants/b/jobs/x']) {
    t.deepEqual(parseObjectKey('acme', key), []);
  }
});
