import test from 'ava';
import fc from 'fast-check';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { artifactKey, jobPrefix, parseArtifactName } from './artifact.ts';

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
      const key = artifactKey('acme', 'job', 'INPUT', name);
      return key === `tenants/acme/jobs/job/input/${name}` && key.split('/').length === 6 && !name.startsWith('.');
    }),
  );
  t.pass();
});

test("a job's prefix holds no other job and no other tenant", (t) => {
  t.false(artifactKey('acme', '10', 'OUTPUT', 'a').startsWith(jobPrefix('acme', '1')));
  t.false(artifactKey('acme-2', '1', 'TASK', 'a').startsWith(jobPrefix('acme', '1')));
  t.true(artifactKey('acme', '1', 'TASK', 'a').startsWith(`${jobPrefix('acme', '1')}tasks/`));
});
