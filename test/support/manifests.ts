import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { ICronJob, IJob } from 'kubernetes-models/batch/v1';
import type { IConfigMap, IContainer, IPodSpec } from 'kubernetes-models/v1';
import { parseAllDocuments } from 'yaml';
import { hasProgram } from './require.ts';

const run = promisify(execFile);
const DEPLOY = fileURLToPath(new URL('../../deploy/', import.meta.url));

/** One document of a manifest. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
}

/** Something that runs pods, whatever its kind. */
export interface Workload {
  readonly kind: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly pod: IPodSpec;
  readonly container: IContainer;
}

const RENDERERS = [
  ['kustomize', 'build'],
  ['kubectl', 'kustomize'],
] as const;

/** What can render a kustomization here; undefined where neither is found. */
export const renderer = RENDERERS.find(([program]) => hasProgram(program));

/** Renders a folder below deploy/, or any other, by kustomize. */
export async function render(folder: string): Promise<readonly Manifest[]> {
  if (!renderer) throw new Error('neither kustomize nor kubectl was found');
  const [program, command] = renderer;
  const { stdout } = await run(program, [command, resolve(DEPLOY, folder)], { maxBuffer: 16 * 1_024 * 1_024 });
  return parseManifests(stdout);
}

/** The base's documents as they are written, before kustomize has joined its patches to them. */
export async function readBase(): Promise<readonly Manifest[]> {
  const base = join(DEPLOY, 'base');
  const [kustomization] = parseManifests(await readFile(join(base, 'kustomization.yaml'), 'utf8'));
  const { resources } = kustomization as unknown as { resources: readonly string[] };
  const texts = await Promise.all(resources.map((name) => readFile(join(base, name), 'utf8')));
  return texts.flatMap(parseManifests);
}

/** Documents of a YAML stream; an Error for what is no YAML. */
export const parseManifests = (text: string): readonly Manifest[] =>
  parseAllDocuments(text).map((document) => {
    const [error] = document.errors;
    if (error) throw error;
    return document.toJS() as Manifest;
  });

/** The documents of one kind, with its type. */
export const ofKind = <T>(manifests: readonly Manifest[], kind: string): readonly (T & Manifest)[] =>
  manifests.filter((manifest) => manifest.kind === kind) as unknown as readonly (T & Manifest)[];

/** Every pod template, by what runs it. */
export const workloadsOf = (manifests: readonly Manifest[]): readonly Workload[] =>
  manifests.flatMap((manifest) => {
    const template =
      manifest.kind === 'CronJob'
        ? (manifest as ICronJob).spec?.jobTemplate.spec?.template
        : manifest.kind === 'Deployment' || manifest.kind === 'Job'
          ? (manifest as IJob).spec?.template
          : undefined;
    const [container, ...others] = template?.spec?.containers ?? [];
    if (!template?.spec || !container) return [];
    if (others.length > 0) throw new Error(`${manifest.metadata.name} has more than one container`);
    const { labels = {}, annotations = {} } = template.metadata ?? {};
    return [{ kind: manifest.kind, name: manifest.metadata.name, labels, annotations, pod: template.spec, container }];
  });

/** The workload of a kind and name; an Error for none. */
export function workloadNamed(manifests: readonly Manifest[], kind: string, name: string): Workload {
  const found = workloadsOf(manifests).find((workload) => workload.kind === kind && workload.name === name);
  if (!found) throw new Error(`there is no ${kind} ${name}`);
  return found;
}

/**
 * A container's environment as the kubelet would make it. What comes from elsewhere, a secret or a field of the pod,
 * is answered by `given`, which is told where it comes from, e.g. `secret/run-database/url`.
 */
export function environmentOf(
  manifests: readonly Manifest[],
  { container }: Workload,
  given: (source: string) => string,
): Record<string, string> {
  const env: Record<string, string> = {};
  for (const { configMapRef } of container.envFrom ?? []) {
    const config = ofKind<IConfigMap>(manifests, 'ConfigMap').find(
      ({ metadata }) => metadata.name === configMapRef?.name,
    );
    if (!config) throw new Error(`there is no ConfigMap ${configMapRef?.name}`);
    Object.assign(env, config.data);
  }
  for (const { name, value, valueFrom } of container.env ?? []) {
    const { secretKeyRef: secret, fieldRef: field } = valueFrom ?? {};
    const source = secret ? `secret/${secret.name}/${secret.key}` : field && `field/${field.fieldPath}`;
    if (value === undefined && !source) throw new Error(`the value of ${name} comes from where no test looks`);
    env[name] = value ?? given(source ?? '');
  }
  return env;
}

/** A container's command and arguments, with `$(NAME)` replaced as the kubelet does it. */
export const commandOf = ({ container }: Workload, env: Readonly<Record<string, string>>): readonly string[] =>
  [...(container.command ?? []), ...(container.args ?? [])].map((word) =>
    word.replace(/\$\(([A-Za-z_]\w*)\)/g, (reference, name: string) => env[name] ?? reference),
  );

/**
 * What is wrong with a document by Kubernetes' own schema: errors, and every field that the schema does not have,
 * which the API server would drop or refuse.
 */
export async function findProblems(manifest: Manifest): Promise<readonly string[]> {
  const [version = '', group = 'core'] = manifest.apiVersion.split('/').reverse();
  const capitalized = (word: string): string => word.charAt(0).toUpperCase() + word.slice(1);
  const schema = `IoK8sApi${capitalized(group.replace(/\..*/, ''))}${capitalized(version)}${manifest.kind}`;
  const { validate } = (await import(`kubernetes-models/_schemas/${schema}`)) as { validate: Validate };
  const known = new Set<string>();
  const isValid = validate(watched(manifest, '', known));
  const errors = (validate.errors ?? []).map(
    ({ instancePath, message, keyword }) => `${instancePath} ${message ?? keyword}`,
  );
  return [...(isValid ? [] : errors), ...unknownFields(manifest, '', known)];
}

interface Validate {
  (value: unknown): boolean;
  errors?: readonly { instancePath: string; keyword: string; message?: string }[] | null;
}

/** Notes every field that is looked at: a schema looks at those it has, and at all of a map's. */
function watched<T>(value: T, path: string, known: Set<string>): T {
  if (typeof value !== 'object' || value === null) return value;
  return new Proxy(value, {
    get(target, name) {
      known.add(`${path}/${String(name)}`);
      return watched(Reflect.get(target, name), `${path}/${String(name)}`, known);
    },
    ownKeys(target) {
      for (const name of Object.keys(target)) known.add(`${path}/${name}`);
      return Reflect.ownKeys(target);
    },
  });
}

function unknownFields(value: unknown, path: string, known: ReadonlySet<string>): readonly string[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, field]) =>
    known.has(`${path}/${name}`) ? unknownFields(field, `${path}/${name}`, known) : [`${path}/${name} is no field`],
  );
}
