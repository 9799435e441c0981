import { spawnSync } from 'node:child_process';
import test from 'ava';

/** Whether the linter refuses an import in a file that stands there. */
function refuses(file: string, specifier: string): boolean {
  const input = `import { x } from '${specifier}';\n\nconsole.log(x);\n`;
  const { stdout, stderr } = spawnSync('biome', ['lint', `--stdin-file-path=${file}`], { input, encoding: 'utf8' });
  return `${stdout}${stderr}`.includes('noRestrictedImports');
}

const RULES: readonly { file: string; may: readonly string[]; mayNot: readonly string[] }[] = [
  {
    file: 'libs/kernel/a.ts',
    may: ['./b.ts', 'node:crypto'],
    mayNot: ['#libs/grpc/b.ts', '../grpc/b.ts', 'knex', 'node:fs', '#gen/lethe/job/v1/job_pb.ts'],
  },
  {
    file: 'libs/grpc/a.ts',
    may: ['#libs/kernel/b.ts', '@grpc/grpc-js'],
    mayNot: ['#services/run/domain/run.ts', '../../services/run/domain/run.ts', 'inversify', 'objection'],
  },
  {
    file: 'services/run/domain/a.ts',
    may: ['#libs/kernel/b.ts', './b.ts'],
    mayNot: ['../use-cases/b.ts', '#libs/grpc/b.ts', 'knex', '@connectrpc/connect', 'node:fs', '#gen/lethe/b.ts'],
  },
  {
    file: 'services/run/use-cases/a.ts',
    may: ['#libs/kernel/b.ts', '../domain/b.ts', './ports.ts', '#libs/saga/b.ts'],
    mayNot: ['../adapters/grpc/b.ts', '../../job/domain/b.ts', 'knex', '#libs/object-store/s3-store.ts', '#gen/b.ts'],
  },
  {
    file: 'services/run/adapters/grpc/a.ts',
    may: ['../../domain/b.ts', '../../use-cases/b.ts', '#gen/lethe/b.ts', '#libs/grpc/b.ts', 'knex'],
    mayNot: ['../../../job/domain/b.ts', '#services/job/domain/b.ts', 'inversify'],
  },
];

for (const { file, may, mayNot } of RULES) {
  test(`${file} may import its own layer and those below it, and nothing else`, (t) => {
    for (const specifier of may) t.false(refuses(file, specifier), specifier);
    for (const specifier of mayNot) t.true(refuses(file, specifier), specifier);
  });
}
