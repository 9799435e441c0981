import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'ava';

const config = JSON.parse(readFileSync(new URL('../../biome.json', import.meta.url), 'utf8'));

/** The specifiers that the linter, with the project's own rules, refuses in a file that stands there. */
function refused(file: string, specifiers: readonly string[]): string[] {
  const root = mkdtempSync(join(tmpdir(), 'lethe-test-layers-'));
  try {
    writeFileSync(join(root, 'biome.json'), JSON.stringify({ ...config, vcs: { enabled: false } }));
    const path = join(root, file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(
      path,
      specifiers.map((specifier, index) => `export { x as x${index} } from '${specifier}';\n`).join(''),
    );
    const { stdout } = spawnSync('biome', ['lint', '--reporter=json', '--max-diagnostics=none', '.'], {
      cwd: root,
      encoding: 'utf8',
    });
    const lines = (JSON.parse(stdout).diagnostics as { category: string; location: { start: { line: number } } }[])
      .filter(({ category }) => category === 'lint/style/noRestrictedImports')
      .map(({ location }) => location.start.line);
    return specifiers.filter((_, index) => lines.includes(index + 1));
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
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
    file: 'libs/service/composition.ts',
    may: ['inversify', 'reflect-metadata'],
    mayNot: ['#libs/kernel/b.ts', '../grpc/b.ts', '#services/run/container.ts', 'knex'],
  },
  {
    file: 'services/run/container.ts',
    may: ['./use-cases/b.ts', './adapters/grpc/b.ts', '#libs/service/composition.ts', '#gen/lethe/b.ts'],
    mayNot: ['inversify', '../job/domain/b.ts', '#services/job/domain/b.ts'],
  },
  {
    file: 'services/run/domain/a.ts',
    may: ['#libs/kernel/b.ts', './b.ts'],
    mayNot: ['../use-cases/b.ts', '#libs/grpc/b.ts', 'knex', '@connectrpc/connect', 'node:fs', '#gen/lethe/b.ts'],
  },
  {
    file: 'services/run/workflows/x/a.ts',
    may: ['#libs/kernel/b.ts', './b.ts', '../../domain/b.ts'],
    mayNot: ['../../use-cases/b.ts', '../../adapters/postgres/b.ts', '#libs/grpc/b.ts', 'knex', 'node:fs'],
  },
  {
    file: 'services/run/use-cases/a.ts',
    may: [
      '#libs/kernel/b.ts',
      '../domain/b.ts',
      './ports.ts',
      '#libs/durable/b.ts',
      '#libs/participant/participant.ts',
    ],
    mayNot: [
      '../adapters/grpc/b.ts',
      '../../job/domain/b.ts',
      'knex',
      '#libs/object-store/s3-store.ts',
      '#libs/participant/b.ts',
      '#gen/b.ts',
    ],
  },
  {
    file: 'services/run/adapters/grpc/a.ts',
    may: ['../../domain/b.ts', '../../use-cases/b.ts', '#gen/lethe/b.ts', '#libs/grpc/b.ts', 'knex'],
    mayNot: ['../../../job/domain/b.ts', '#services/job/domain/b.ts', 'inversify'],
  },
  {
    file: 'services/console/server/rest/a.ts',
    may: ['../b.ts', '#gen/lethe/b.ts', '#libs/grpc/b.ts', 'fastify'],
    mayNot: ['../../page/b.ts', '../../../run/domain/b.ts', '#services/run/domain/b.ts', '#libs/postgres/b.ts', 'knex'],
  },
  {
    file: 'services/console/page/runs/a.ts',
    may: ['../parts/b.ts', '#gen/lethe/b.ts', 'react'],
    mayNot: ['../../server/b.ts', '#libs/kernel/b.ts', '#services/run/domain/b.ts', 'node:fs'],
  },
];

for (const { file, may, mayNot } of RULES) {
  test(`${file} may import its own layer and those below it, and nothing else`, (t) => {
    t.deepEqual(refused(file, [...may, ...mayNot]), [...mayNot]);
  });
}
