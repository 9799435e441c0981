import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { homedir, setPriority } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hasProgram } from '#test/support/require.ts';

const MODULE = fileURLToPath(new URL('./', import.meta.url));
const PROGRAMS = ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kubectl'] as const;

/** The version of Kubernetes that go.mod names. */
export const KUBERNETES_VERSION =
  /^\tk8s\.io\/kubernetes (v\S+)/m.exec(await readFile(join(MODULE, 'go.mod'), 'utf8'))?.[1] ?? '';

const CACHE = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'lethe-control-plane');

/** Where the programs of this version are kept between runs, for every clone on this machine. */
export const BINARIES = join(CACHE, KUBERNETES_VERSION);

/** Whether they were built. */
export const hasBinaries = (): boolean =>
  PROGRAMS.every((program) => {
    try {
      accessSync(join(BINARIES, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

/** Builds them, which takes Go, ten minutes of two cores, and four gigabytes in Go's own caches. */
export async function buildBinaries(): Promise<void> {
  if (!hasProgram('go')) throw new Error('the control plane is built by Go, which was not found');
  // Moved when it is whole, so that nobody finds half of it.
  const folder = `${BINARIES}.${process.pid}`;
  await mkdir(folder, { recursive: true });
  try {
    const versions = ['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version'].map(
      (path) => `-X ${path}.gitVersion=${KUBERNETES_VERSION}`,
    );
    const flags = ['-trimpath', '-ldflags', ['-s', '-w', ...versions].join(' '), '-o', folder];
    const build = spawn('go', ['build', ...flags, 'tool'], { cwd: MODULE, stdio: 'inherit' });
    // Whatever else the machine does goes first.
    if (build.pid !== undefined) setPriority(build.pid, 10);
    const [code] = await once(build, 'exit');
    if (code !== 0) throw new Error(`go build ended with ${code}`);
    // As its package is called.
    await rename(join(folder, 'server'), join(folder, 'etcd'));
    await rm(BINARIES, { recursive: true, force: true });
    await rename(folder, BINARIES);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
