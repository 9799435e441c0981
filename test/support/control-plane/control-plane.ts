import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { endWithMe, makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { freePort } from '#deploy/local/free-port.ts';
import { until } from '#test/support/test-stack.ts';
import { BINARIES } from './binaries.ts';

/**
 * A control plane of Kubernetes: it keeps what is applied, refuses what it must, and makes the pods that controllers
 * make. Nothing runs them, as there is no node.
 */
export interface ControlPlane {
  /** What its commands need: KUBECONFIG, and a PATH with its own kubectl first. */
  readonly env: Readonly<Record<string, string>>;
  stop(): Promise<void>;
}

const run = promisify(execFile);
const PATIENCE_MS = 120_000;

/** Starts one that is empty; resolves when it is ready. */
export async function startControlPlane(): Promise<ControlPlane> {
  const { path: folder, remove } = await makeTemporaryFolder('lethe-test-control-plane-');
  const ports = await Promise.all(Array.from({ length: 4 }, () => freePort()));
  const [etcdPort, etcdPeerPort, port, controllersPort] = ports;
  const etcd = `http://127.0.0.1:${etcdPort}`;
  const etcdPeers = `http://127.0.0.1:${etcdPeerPort}`;
  const server = `https://127.0.0.1:${port}`;
  const token = randomUUID();
  const at = (name: string): string => join(folder, name);
  const { privateKey, publicKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  });
  await Promise.all([
    writeFile(at('accounts.key'), privateKey, { mode: 0o600 }),
    writeFile(at('accounts.pub'), publicKey),
    writeFile(at('tokens.csv'), `${token},admin,admin,system:masters\n`, { mode: 0o600 }),
    writeFile(at('kubeconfig'), toKubeconfig(server, token), { mode: 0o600 }),
  ]);

  const env = { PATH: `${BINARIES}:${process.env['PATH']}`, KUBECONFIG: at('kubeconfig') };
  const running: ChildProcess[] = [];
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => undefined);
  const start = (program: string, ...args: readonly string[]): void => {
    const log = openSync(at(`${program}.log`), 'w');
    const child = spawn(join(BINARIES, program), args, { cwd: folder, stdio: ['ignore', log, log] });
    endWithMe(child, 'KILL');
    running.push(child);
    child.once('exit', async () => {
      const said = await readFile(at(`${program}.log`), 'utf8').catch(() => '');
      failed.reject(new Error(`${program} ended: ${said.slice(-2_000)}`));
    });
  };
  const stop = async (): Promise<void> => {
    await Promise.all(
      running.map(async (child) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        child.kill('SIGKILL');
        await once(child, 'exit');
      }),
    );
    await remove();
  };

  try {
    start(
      'etcd',
      `--data-dir=${at('etcd')}`,
      `--listen-client-urls=${etcd}`,
      `--advertise-client-urls=${etcd}`,
      `--listen-peer-urls=${etcdPeers}`,
      `--initial-advertise-peer-urls=${etcdPeers}`,
      `--initial-cluster=default=${etcdPeers}`,
      '--unsafe-no-fsync',
    );
    start(
      'kube-apiserver',
      `--etcd-servers=${etcd}`,
      '--bind-address=127.0.0.1',
      `--secure-port=${port}`,
      `--cert-dir=${at('certificates')}`,
      '--service-cluster-ip-range=10.96.0.0/16',
      '--service-account-issuer=https://kubernetes.default.svc',
      `--service-account-key-file=${at('accounts.pub')}`,
      `--service-account-signing-key-file=${at('accounts.key')}`,
      `--token-auth-file=${at('tokens.csv')}`,
      '--authorization-mode=RBAC',
    );
    const isReady = async () => (await run('kubectl', ['get', '--raw=/readyz'], { env })).stdout === 'ok';
    await Promise.race([until('the API server is ready', isReady, PATIENCE_MS), failed.promise]);
    start(
      'kube-controller-manager',
      `--kubeconfig=${at('kubeconfig')}`,
      `--service-account-private-key-file=${at('accounts.key')}`,
      '--bind-address=127.0.0.1',
      `--secure-port=${controllersPort}`,
      '--leader-elect=false',
    );
  } catch (error) {
    await stop();
    throw error;
  }
  return { env, stop };
}

const toKubeconfig = (server: string, token: string): string =>
  JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'test', cluster: { server, 'insecure-skip-tls-verify': true } }],
    users: [{ name: 'admin', user: { token } }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'admin' } }],
    'current-context': 'test',
  });
