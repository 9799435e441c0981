import { fork } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { endWithParent, makeTemporaryFolder } from './end-with-me.ts';
import { freePort } from './free-port.ts';
import { startPostgresServer } from './postgres-server.ts';
import { startServiceProcess } from './service-process.ts';

/** Starts a server and a service in a folder, and tells whoever forked it which. */
async function startParts(): Promise<void> {
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
  process.send?.({ folder, pids: [process.pid, service.pid(), server.pid] });
}

switch (process.argv[2]) {
  // One that does not heed SIGTERM.
  case 'service':
    process.on('SIGTERM', () => undefined);
    break;
  case 'runner':
    fork(fileURLToPath(import.meta.url), ['worker']).on('message', (parts) => process.send?.(parts));
    break;
  case 'worker':
    endWithParent();
    await startParts();
    break;
  default:
    await startParts();
}
setInterval(() => undefined, 1_000);
