import { join } from 'node:path';
import { makeTemporaryFolder } from './end-with-me.ts';
import { freePort } from './free-port.ts';
import { startPostgresServer } from './postgres-server.ts';
import { startServiceProcess } from './service-process.ts';

// Told by its parent to be the service: one that does not heed SIGTERM.
if (process.argv[2] === 'service') {
  process.on('SIGTERM', () => undefined);
  setInterval(() => undefined, 1_000);
} else {
  const { path: folder } = await makeTemporaryFolder('lethe-test-end ');
  const service = await startServiceProcess({
    name: 'service',
    program: 'deploy/local/end-with-me.fixture.ts',
    args: ['service'],
    env: {},
    logFile: join(folder, 'service.log'),
    onGivingUp: () => undefined,
  });
  const server = await startPostgresServer({ folder, port: await freePort(), password: 'test', throwaway: true });
  process.send?.({ folder, pids: [service.pid(), server.pid] });
  setInterval(() => undefined, 1_000);
}
