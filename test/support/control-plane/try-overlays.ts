import { execFile } from 'node:child_process';
import { cp, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { IDeployment } from 'kubernetes-models/apps/v1';
import type { IJob } from 'kubernetes-models/batch/v1';
import type { IEvent, IPod } from 'kubernetes-models/v1';
import { makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { startTestPostgres } from '#test/support/postgres.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { until } from '#test/support/test-stack.ts';
import type { ControlPlane } from './control-plane.ts';

const REPOSITORY = fileURLToPath(new URL('../../../', import.meta.url));

/** The overlays of deploy/, and the namespaces that its README names for them. */
const NAMESPACES = { prod: 'lethe', dev: 'lethe-dev' } as const;

/** One of them. */
export type Overlay = keyof typeof NAMESPACES;
export const OVERLAYS = Object.keys(NAMESPACES) as readonly Overlay[];

/** A folder with what the README's commands need, where they can be given to a cluster. */
export interface Trial {
  /** Gives the cluster an overlay as the README says, step by step; what was not as it should be, by step. */
  tryOverlay(overlay: Overlay): Promise<Readonly<Record<string, readonly string[]>>>;
  dispose(): Promise<void>;
}

/** Makes the keys and the databases that the overlays' secrets are made of. */
export async function prepareTrial(plane: ControlPlane): Promise<Trial> {
  const commands = await readCommands();
  const folder = await makeTemporaryFolder('lethe-test-cluster-');
  const postgres = await startTestPostgres();
  const run = makeShell(folder.path, { ...plane.env, SUPERUSER_URL: postgres.url });
  for (const name of ['deploy', 'libs', 'package.json'])
    await cp(join(REPOSITORY, name), join(folder.path, name), { recursive: true });
  await symlink(join(REPOSITORY, 'node_modules'), join(folder.path, 'node_modules'));
  await run(commands.makeFiles);
  return {
    tryOverlay: (overlay) => tryOverlay(run, commands, folder.path, overlay),
    async dispose() {
      await postgres.stop();
      await folder.remove();
    },
  };
}

/** The commands of deploy/README.md that are about a cluster. */
async function readCommands() {
  const readme = await readReadmes();
  const find = (what: RegExp): string => {
    const [, command] = what.exec(readme) ?? [];
    if (!command) throw new Error(`no README has ${what}`);
    return command;
  };
  const secrets = find(/<!-- tested by test\/contract\/deploy-secrets\S+ -->\n```sh\n([\s\S]*?)```/);
  const isOfCluster = (line: string): boolean => !line.startsWith('node ');
  const lines = secrets.split('\n');
  return {
    makeFiles: lines.filter((line) => !isOfCluster(line)).join('\n'),
    makeSecrets: lines.filter(isOfCluster).join('\n'),
    apply: find(/<!-- tested by test\/contract\/deploy-cluster\S+ -->\n```sh\n([\s\S]*?)```/),
    purgeByHand: find(/^(kubectl .* create job --from=cronjob\/retention-purge .*)$/m),
  };
}

type Commands = Awaited<ReturnType<typeof readCommands>>;
type Shell = (script: string, env?: Readonly<Record<string, string>>) => Promise<Outcome>;

interface Outcome {
  readonly code: number;
  /** Lines of both streams that are not empty. */
  readonly lines: readonly string[];
}

const makeShell =
  (cwd: string, base: Readonly<Record<string, string>>): Shell =>
  async (script, env = {}) => {
    const secrets = { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'secret' };
    const options = { cwd, env: { ...process.env, ...base, ...secrets, ...env }, maxBuffer: 16 * 1_024 * 1_024 };
    const {
      stdout,
      stderr,
      code = 0,
    } = await promisify(execFile)('bash', ['-euc', script], options).then(
      (output) => ({ ...output, code: 0 }),
      (error: { stdout: string; stderr: string; code: number }) => error,
    );
    return { code, lines: `${stdout}\n${stderr}`.split('\n').filter((line) => line.trim() !== '') };
  };

async function tryOverlay(run: Shell, commands: Commands, folder: string, overlay: Overlay) {
  const env = { OVERLAY: overlay, NAMESPACE: NAMESPACES[overlay] };
  const cluster = { run: (script: string) => run(script, env), namespace: NAMESPACES[overlay], folder };
  const kustomization = `deploy/overlays/${overlay}`;
  return {
    'the secrets are made': complaints(await cluster.run(commands.makeSecrets)),
    'it is applied': complaints(
      await cluster.run(commands.apply),
      // What there is to delete of the version before.
      /^No resources found|(created|configured|unchanged)$/,
    ),
    'its pods are made': await missingPods(cluster),
    'a pod that is not restricted is refused': await tryUnrestricted(cluster),
    'a diff is empty': complaints(await cluster.run(`kubectl diff -k ${kustomization}`), NOTHING),
    'it is applied again, and only its migrations are made anew': await applyAgain(cluster, commands.apply),
    'a purge is made by hand': [
      ...complaints(await cluster.run(commands.purgeByHand), /created$/),
      ...(await missingPods(cluster)),
    ],
    "it is applied by the server, and the server's diff is empty": [
      ...complaints(await cluster.run(`kubectl apply --server-side --force-conflicts -k ${kustomization}`), /applied$/),
      ...complaints(await cluster.run(`kubectl diff --server-side -k ${kustomization}`), NOTHING),
    ],
    'with mTLS it would be accepted too': await tryWithTls(cluster, overlay),
  };
}

interface Cluster {
  readonly run: (script: string) => Promise<Outcome>;
  readonly namespace: string;
  /** Where its commands run. */
  readonly folder: string;
}

/** That a command failed, its warnings, and the lines that are none of those expected. */
const complaints = ({ code, lines }: Outcome, expected = /./): readonly string[] => [
  ...(code === 0 ? [] : [`it ended with ${code}`]),
  ...lines.filter((line) => !expected.test(line) || /warning/i.test(line) || code !== 0),
];

const NOTHING = /^$/;

async function tryUnrestricted({ run }: Cluster): Promise<readonly string[]> {
  const { code, lines } = await run('kubectl -n "$NAMESPACE" run as-root --image=lethe');
  return code !== 0 && lines.some((line) => /violates PodSecurity "restricted/.test(line)) ? [] : lines;
}

async function applyAgain({ run }: Cluster, apply: string): Promise<readonly string[]> {
  const generations = async (): Promise<readonly string[]> => {
    const template = '{range .items[*]}{.kind} {.metadata.name} {.metadata.generation}{"\\n"}{end}';
    const kinds = 'deployments,cronjobs,poddisruptionbudgets,networkpolicies';
    const { code, lines } = await run(`kubectl -n "$NAMESPACE" get ${kinds} -o jsonpath='${template}'`);
    if (code !== 0) throw new Error(lines.join('\n'));
    return lines;
  };
  const before = await generations();
  // kubectl says `configured` of every PodDisruptionBudget, as it always sends the whole selector: its generation tells.
  const expected = /^job\.batch.* (created|deleted( from .*)?)$|unchanged$|^poddisruptionbudget.* configured$/;
  const found = complaints(await run(apply), expected);
  const after = await generations();
  return [...found, ...after.filter((line) => !before.includes(line))];
}

async function tryWithTls({ run, folder }: Cluster, overlay: Overlay): Promise<readonly string[]> {
  const path = `deploy/overlays/${overlay}-tls`;
  const kustomization = `kind: Kustomization\nresources: [../${overlay}]\ncomponents: [../../components/tls]\n`;
  await mkdir(join(folder, path));
  await writeFile(join(folder, path, 'kustomization.yaml'), kustomization);
  // A Job cannot be changed; those of the overlay are there already.
  const applied = await run(
    `kubectl -n "$NAMESPACE" delete job -l app.kubernetes.io/component=migration >/dev/null
     kubectl apply --dry-run=server -k ${path}`,
  );
  return complaints(applied, /\(server dry run\)$/);
}

/** What keeps controllers from making the pods of Deployments and Jobs: nothing, or what they say of it. */
async function missingPods({ run, namespace }: Cluster): Promise<readonly string[]> {
  const list = async <T>(kinds: string): Promise<readonly (T & { kind: string })[]> => {
    const { code, lines } = await run(`kubectl -n ${namespace} get ${kinds} -o json`);
    if (code !== 0) throw new Error(lines.join('\n'));
    return JSON.parse(lines.join('\n')).items;
  };
  const wanted = async (): Promise<number> => {
    const makers = await list<IDeployment | IJob>('deployments,jobs');
    return makers.reduce((sum, { spec }) => sum + (spec && 'replicas' in spec ? (spec.replicas ?? 1) : 1), 0);
  };
  try {
    await until('all pods are made', async () => {
      const [pods, expected] = await Promise.all([list<IPod>('pods'), wanted()]);
      return pods.filter(({ metadata }) => !metadata?.deletionTimestamp).length === expected;
    });
  } catch (error) {
    const warnings = (await list<IEvent>('events')).filter(({ type }) => type === 'Warning');
    return [String(error), ...new Set(warnings.map(({ reason, message }) => `${reason}: ${message}`))];
  }
  return [];
}
