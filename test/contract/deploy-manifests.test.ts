import { execFile } from 'node:child_process';
import { access, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { IDeployment } from 'kubernetes-models/apps/v1';
import type { ICronJob, IJob } from 'kubernetes-models/batch/v1';
import type { INetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1';
import type { IPodDisruptionBudget } from 'kubernetes-models/policy/v1';
import type { IPersistentVolumeClaim, IService, IServiceAccount } from 'kubernetes-models/v1';
import { makeKeys } from '#deploy/make-keys.ts';
import { EXIT } from '#libs/cli/output.ts';
import { openCredential, readProfile } from '#libs/cli/session.ts';
import type { Environment } from '#libs/kernel/settings.ts';
import type { CommonSettings } from '#libs/service/common-settings.ts';
import { readConsoleSettings } from '#services/console/server/config.ts';
import { readIncidentSettings } from '#services/incident/config.ts';
import { readJobSettings } from '#services/job/config.ts';
import { type RetentionSettings, readRetentionSettings } from '#services/retention/config.ts';
import { readRunSettings } from '#services/run/config.ts';
import {
  commandOf,
  environmentOf,
  findProblems,
  type Manifest,
  ofKind,
  parseManifests,
  readBase,
  render,
  renderer,
  type Workload,
  workloadNamed,
  workloadsOf,
} from '#test/support/manifests.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { testIfFound } from '#test/support/require.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const FOLDERS = ['base', 'overlays/dev', 'overlays/prod'] as const;

const SETTINGS: Readonly<Record<string, (env: Environment) => CommonSettings>> = {
  run: readRunSettings,
  job: readJobSettings,
  incident: readIncidentSettings,
  retention: readRetentionSettings,
};
// Read by the object store's own client, not by config.ts.
const READ_BY_AWS = ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'];

type Rendered = Readonly<Record<(typeof FOLDERS)[number], readonly Manifest[]>>;
const test = anyTest as TestFn<{ rendered: Rendered }>;

test.before(async (t) => {
  if (!renderer) return;
  const entries = FOLDERS.map(async (folder) => [folder, await render(folder)] as const);
  t.context.rendered = Object.fromEntries(await Promise.all(entries)) as Rendered;
});

const testRendered = (title: string, body: (t: ExecutionContext<{ rendered: Rendered }>) => Promise<void> | void) =>
  testIfFound(test, renderer !== undefined, 'kustomize', title, body);

/** The same check over the base and every overlay. */
const testEach = (
  title: string,
  body: (t: ExecutionContext, manifests: readonly Manifest[], folder: string) => Promise<void> | void,
) => {
  for (const folder of FOLDERS) {
    testRendered(`${folder}: ${title}`, (t) => body(t, t.context.rendered[folder], folder));
  }
};

/** Notes which names of an environment are read. */
function noting(env: Environment): { env: Environment; read: ReadonlySet<string> } {
  const read = new Set<string>();
  const get = (target: Environment, name: string): string | undefined => {
    read.add(name);
    return target[name];
  };
  return { env: new Proxy(env, { get }), read };
}

const services = (manifests: readonly Manifest[]): readonly Workload[] =>
  workloadsOf(manifests).filter(({ kind, name }) => kind === 'Deployment' && name !== 'console');

const settingsOf = (manifests: readonly Manifest[], workload: Workload) => {
  const given = (source: string): string =>
    source.endsWith('-database/url') ? 'postgres://app:secret@postgres:5432/lethe' : source;
  const { env, read } = noting(environmentOf(manifests, workload, given));
  const parse = SETTINGS[workload.name];
  if (!parse) throw new Error(`${workload.name} is no service`);
  return { settings: parse(env), env, read };
};

const matches = (
  selector: { matchLabels?: Record<string, string>; matchExpressions?: readonly object[] } | undefined,
  labels: Readonly<Record<string, string>>,
): boolean =>
  Object.entries(selector?.matchLabels ?? {}).every(([key, value]) => labels[key] === value) &&
  (selector?.matchExpressions ?? []).every((expression) => {
    const { key, operator, values = [] } = expression as { key: string; operator: string; values?: readonly string[] };
    if (operator !== 'In') throw new Error(`the operator ${operator} is not understood`);
    return values.includes(labels[key] ?? '');
  });

test('the documents of the base, as they are written, keep to the schemas of Kubernetes', async (t) => {
  const base = await readBase();
  t.true(base.length > 30);
  for (const manifest of base) t.deepEqual(await findProblems(manifest), [], manifest.metadata.name);
});

test('the schema check sees a wrong type, a missing field and a field that is not there', async (t) => {
  const [wrong] = parseManifests(`
    apiVersion: apps/v1
    kind: Deployment
    metadata: { name: wrong }
    spec:
      replicas: many
      selector: { matchLabels: { a: b } }
      template:
        metadata: { labels: { a: b } }
        spec:
          containers:
            - image: lethe
              readinesProbe: { grpc: { port: 1 } }
  `);
  if (!wrong) return t.fail();
  const problems = (await findProblems(wrong)).join('\n');
  t.regex(problems, /\/spec\/replicas type/);
  t.regex(problems, /\/spec\/template\/spec\/containers\/0 required/);
  t.regex(problems, /\/spec\/template\/spec\/containers\/0\/readinesProbe is no field/);
});

testEach('every document keeps to the schemas of Kubernetes', async (t, manifests) => {
  for (const manifest of manifests) t.deepEqual(await findProblems(manifest), [], manifest.metadata.name);
  const kinds = Object.groupBy(manifests, ({ kind }) => kind);
  t.is(kinds['Deployment']?.length, 5);
  t.is(kinds['Job']?.length, 4);
  t.is(kinds['CronJob']?.length, 2);
  t.is(kinds['PodDisruptionBudget']?.length, 5);
  t.is(kinds['Secret'], undefined, 'what is secret is not in the repository');
});

testEach('a service is given every setting that it requires, and none that it does not read', (t, manifests) => {
  for (const workload of services(manifests)) {
    const { env, read } = settingsOf(manifests, workload);
    const unread = Object.keys(env).filter((name) => !read.has(name));
    t.deepEqual(unread, env['LETHE_OBJECT_STORE'] === 's3' ? READ_BY_AWS : [], workload.name);
  }
});

testEach(
  'the console is given every setting that it requires, none that it does not read, and no credential of its own',
  async (t, manifests) => {
    const folder = await mkdtemp(join(tmpdir(), 'lethe-test-console-'));
    t.teardown(() => rm(folder, { recursive: true, force: true }));
    await makeKeys(folder);
    const workload = workloadNamed(manifests, 'Deployment', 'console');
    const given = environmentOf(manifests, workload, (source) => source);
    const { env, read } = noting({ ...given, LETHE_SESSION_KEY_FILE: join(folder, 'console-session-key') });
    const settings = readConsoleSettings(env);
    t.deepEqual(
      Object.keys(given).filter((name) => !read.has(name)),
      [],
    );
    t.is(settings.signIn?.consoleUrl, settings.publicUrl);
    t.is(settings.signIn?.sessionKeys[0]?.length, 32);
    const ports = Object.fromEntries((workload.container.ports ?? []).map((port) => [port.name, port.containerPort]));
    t.is(settings.httpAddress, `0.0.0.0:${ports['http']}`);
    t.is(settings.metricsAddress, `0.0.0.0:${ports['metrics']}`);
    const { startupProbe, readinessProbe, livenessProbe, lifecycle } = workload.container;
    for (const probe of [startupProbe, readinessProbe, livenessProbe]) t.is(probe?.httpGet?.port, 'http');
    const waits = lifecycle?.preStop?.sleep?.seconds ?? 0;
    t.true(waits > 0 && (workload.pod.terminationGracePeriodSeconds ?? 0) > waits + settings.drainMs / 1_000 + 1);
    t.deepEqual(
      workload.pod.volumes?.map(({ name }) => name),
      ['session'],
    );
  },
);

testEach('runs are purged a day after their end at the earliest', (t, manifests) => {
  const { env } = settingsOf(manifests, workloadNamed(manifests, 'Deployment', 'run'));
  t.is(env['WORKFLOW_MIN_PURGE_AGE_HOURS'], '24');
});

testEach(
  'the nightly purge is given every setting that it requires, and none that it does not read',
  async (t, manifests) => {
    const purge = workloadNamed(manifests, 'CronJob', 'retention-purge');
    const given = environmentOf(manifests, purge, (source) => source);
    t.is(given['JOB_UID'], "field/metadata.labels['batch.kubernetes.io/controller-uid']");
    t.deepEqual(commandOf(purge, { ...given, JOB_UID: 'uid' }), [
      ...['lethe', 'purge', '--all', '--wait'],
      ...['--request-id', 'uid'],
    ]);
    const { env, read } = noting(given);
    const profile = await readProfile({}, env);
    t.is(profile.addresses.retention, 'retention:7400');
    // The key is mounted, not here; that it is looked for is what counts.
    await t.throwsAsync(openCredential(profile, {}, env), { message: /\/etc\/lethe\/key\/key\.json cannot be used/ });
    const unread = Object.keys(env).filter((name) => !read.has(name));
    t.deepEqual(unread, ['JOB_UID'], 'it is read in the command');
    t.is(profile.actor, 'retention-purge');
  },
);

testEach(
  'a migration is given its two settings, and the owner of a database is known to nobody else',
  async (t, manifests) => {
    const owners = new Map<string, string>();
    for (const workload of workloadsOf(manifests)) {
      environmentOf(manifests, workload, (source) => {
        if (source.startsWith('secret/') && source.includes('owner'))
          owners.set(source, `${workload.kind}/${workload.name}`);
        return source;
      });
    }
    for (const name of Object.keys(SETTINGS)) {
      const migration = workloadNamed(manifests, 'Job', `${name}-migration`);
      const env = environmentOf(manifests, migration, (source) => source);
      t.deepEqual(env, {
        LETHE_DATABASE_OWNER_URL: `secret/${name}-database-owner/url`,
        LETHE_DATABASE_APP_ROLE: `lethe_${name}_app`,
      });
      t.deepEqual(commandOf(migration, env), ['node', `services/${name}/main.ts`, 'migrate']);
      t.is(owners.get(`secret/${name}-database-owner/url`), `Job/${name}-migration`);
    }
    t.is(owners.size, 4);
  },
);

for (const missing of ['LETHE_DATABASE_OWNER_URL', 'LETHE_DATABASE_APP_ROLE']) {
  test(`a migration refuses to run without ${missing}`, async (t) => {
    const env = { LETHE_DATABASE_OWNER_URL: 'postgres://127.0.0.1:1/x', LETHE_DATABASE_APP_ROLE: 'app', [missing]: '' };
    const call = promisify(execFile)(process.execPath, ['services/run/main.ts', 'migrate'], { cwd: REPOSITORY, env });
    const { stdout } = (await t.throwsAsync(call)) as Error & { stdout: string };
    t.true(stdout.includes(missing));
  });
}

testEach('no pod is root, or can become it, or can write to what it runs, or has an API token', (t, manifests) => {
  for (const { name, pod, container } of workloadsOf(manifests)) {
    t.like(pod.securityContext, { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } }, name);
    t.true((pod.securityContext?.runAsUser ?? 0) > 0, name);
    t.deepEqual(container.securityContext, {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
    t.is(pod.automountServiceAccountToken, false, name);
    t.is(pod.enableServiceLinks, false, name);
    const account = ofKind<IServiceAccount>(manifests, 'ServiceAccount').find(
      ({ metadata }) => metadata.name === pod.serviceAccountName,
    );
    t.is(account?.automountServiceAccountToken, false, name);
  }
});

testEach('every container has a share of the machine and a limit', (t, manifests) => {
  for (const { name, container } of workloadsOf(manifests)) {
    for (const part of [container.resources?.requests, container.resources?.limits]) {
      t.deepEqual(Object.keys(part ?? {}).sort(), ['cpu', 'memory'], name);
    }
  }
});

testEach(
  'every service is ready by grpc on the port that it serves, lives by /live, and its figures are where they are looked for',
  (t, manifests) => {
    for (const workload of services(manifests)) {
      const { settings } = settingsOf(manifests, workload);
      const { container, name } = workload;
      const ports = Object.fromEntries((container.ports ?? []).map((port) => [port.name, port.containerPort]));
      t.is(settings.grpcAddress, `0.0.0.0:${ports['grpc']}`);
      t.like(workload.annotations, { 'prometheus.io/scrape': 'true', 'prometheus.io/port': String(ports['metrics']) });
      t.is(settings.metricsAddress, `0.0.0.0:${ports['metrics']}`);
      t.is(container.readinessProbe?.grpc?.port, ports['grpc'], name);
      for (const probe of [container.startupProbe, container.livenessProbe]) {
        t.deepEqual(probe?.httpGet, { path: '/live', port: 'metrics' }, name);
      }
    }
  },
);

testEach('a pod has the time to drain before it is killed', (t, manifests) => {
  for (const workload of services(manifests)) {
    const { settings } = settingsOf(manifests, workload);
    const waits = workload.container.lifecycle?.preStop?.sleep?.seconds ?? 0;
    t.true(waits > 0);
    // Then a worker may still have one call of 20 s in hand.
    t.true((workload.pod.terminationGracePeriodSeconds ?? 0) >= waits + settings.drainMs / 1_000 + 20, workload.name);
  }
});

testEach('one pod of a service is taken away at a time, and its pods are spread', (t, manifests, folder) => {
  for (const deployment of ofKind<IDeployment>(manifests, 'Deployment')) {
    const { name } = deployment.metadata;
    const replicas = deployment.spec?.replicas ?? 0;
    if (folder !== 'overlays/dev') t.true(replicas >= 2, name);
    if (replicas > 1) t.is(deployment.spec?.strategy?.rollingUpdate?.maxUnavailable, 0, name);
    const labels = deployment.spec?.template.metadata?.labels ?? {};
    const budgets = ofKind<IPodDisruptionBudget>(manifests, 'PodDisruptionBudget').filter((budget) =>
      matches(budget.spec?.selector, labels),
    );
    t.deepEqual(
      budgets.map(({ spec }) => spec?.maxUnavailable),
      [1],
      name,
    );
    const spread = deployment.spec?.template.spec?.topologySpreadConstraints ?? [];
    t.deepEqual(
      spread.map(({ topologyKey }) => topologyKey),
      ['kubernetes.io/hostname', 'topology.kubernetes.io/zone'],
    );
    for (const { labelSelector } of spread) t.true(matches(labelSelector, labels));
  }
});

testEach(
  'what is referred to is there: programs, files below mounts, config maps, pods behind selectors',
  async (t, manifests) => {
    const workloads = workloadsOf(manifests);
    for (const workload of workloads) {
      const env = environmentOf(manifests, workload, () => 'from elsewhere');
      for (const word of commandOf(workload, env).filter((part) => part.endsWith('.ts'))) {
        await t.notThrowsAsync(access(join(REPOSITORY, word)), word);
      }
      const volumes = new Set(workload.pod.volumes?.map(({ name }) => name));
      const mounts = workload.container.volumeMounts ?? [];
      for (const { name } of mounts) t.true(volumes.has(name), name);
      for (const path of Object.values(env).filter((value) => value.startsWith('/'))) {
        t.true(
          mounts.some(({ mountPath }) => `${path}/`.startsWith(`${mountPath}/`)),
          path,
        );
      }
      for (const { configMap } of workload.pod.volumes ?? []) {
        if (configMap) t.is(configMap.name, 'trust', 'the one config map that the operator makes');
      }
    }
    const selectors = [
      ...ofKind<IService>(manifests, 'Service').map(({ metadata, spec }) => [
        metadata.name,
        { matchLabels: spec?.selector },
      ]),
      ...ofKind<INetworkPolicy>(manifests, 'NetworkPolicy').map(({ metadata, spec }) => [
        metadata.name,
        spec?.podSelector,
      ]),
    ] as [string, Parameters<typeof matches>[0]][];
    for (const [name, selector] of selectors)
      t.true(
        workloads.some(({ labels }) => matches(selector, labels)),
        name,
      );
  },
);

/** Whether the policies let a pod open a connection to another pod, or to a port anywhere outside. */
function isAllowed(manifests: readonly Manifest[], from: Workload, to: Workload | 'outside', port: string | number) {
  const policies = ofKind<INetworkPolicy>(manifests, 'NetworkPolicy').map(({ spec }) => spec);
  const over = (workload: Workload, direction: string) =>
    policies.filter(
      (spec) => matches(spec?.podSelector, workload.labels) && spec?.policyTypes?.some((type) => type === direction),
    );
  const isOn = (rule: { ports?: readonly { port?: string | number }[] }) =>
    rule.ports?.some((allowed) => allowed.port === port) ?? true;
  const names = (peer: { podSelector?: object; namespaceSelector?: object; ipBlock?: object }, other: Workload) =>
    peer.podSelector !== undefined &&
    !peer.namespaceSelector &&
    !peer.ipBlock &&
    matches(peer.podSelector, other.labels);
  const goesOut = over(from, 'Egress').some((spec) =>
    spec?.egress?.some((rule) =>
      to === 'outside'
        ? isOn(rule) && (rule.to === undefined || rule.to.some(({ ipBlock }) => ipBlock))
        : isOn(rule) && rule.to?.some((peer) => names(peer, to)),
    ),
  );
  if (to === 'outside') return goesOut;
  const comesIn = over(to, 'Ingress').some((spec) =>
    spec?.ingress?.some((rule) => isOn(rule) && rule.from?.some((peer) => names(peer, from))),
  );
  return goesOut && comesIn;
}

/** Whether the policies let a pod open a connection to a port of the pods in another namespace. */
const isAllowedTo = (manifests: readonly Manifest[], from: Workload, namespace: string, port: number): boolean =>
  ofKind<INetworkPolicy>(manifests, 'NetworkPolicy').some(
    ({ spec }) =>
      matches(spec?.podSelector, from.labels) &&
      spec?.egress?.some(
        ({ to = [], ports = [] }) =>
          ports.some((allowed) => allowed.port === port) &&
          to.some((peer) => matches(peer.namespaceSelector, { 'kubernetes.io/metadata.name': namespace })),
      ),
  );

testEach(
  'what the API server would fill in of a CronJob is written down, so that a diff after an apply is empty',
  (t, manifests) => {
    for (const { spec } of ofKind<ICronJob>(manifests, 'CronJob')) {
      const job = spec?.jobTemplate.spec;
      for (const { onPodConditions = [] } of job?.podFailurePolicy?.rules ?? [])
        for (const { status } of onPodConditions) t.is(status, 'True');
      for (const { valueFrom } of job?.template.spec?.containers[0]?.env ?? [])
        if (valueFrom?.fieldRef) t.is(valueFrom.fieldRef.apiVersion, 'v1');
    }
  },
);

testEach('the network lets through the calls that the settings name, and no other', (t, manifests) => {
  const deny = ofKind<INetworkPolicy>(manifests, 'NetworkPolicy').find(
    ({ metadata }) => metadata.name === 'default-deny',
  );
  t.deepEqual(deny?.spec, { podSelector: {}, policyTypes: ['Ingress', 'Egress'] });
  const workloads = workloadsOf(manifests);
  for (const from of workloads) {
    const env = environmentOf(manifests, from, () => '');
    const peers = Object.entries(env)
      .filter(
        ([name]) =>
          /^LETHE_(\w+_ADDRESS|PARTICIPANTS|RETENTION_OWNERS)$/.test(name) && !/_(GRPC|METRICS|HTTP)_/.test(name),
      )
      .flatMap(([, value]) => value.split(',').map((address) => address.replace(/^\w+=/, '')));
    const called = new Set<string>();
    for (const address of peers) {
      const [host, port] = address.split(':');
      const service = ofKind<IService>(manifests, 'Service').find(({ metadata }) => metadata.name === host);
      t.is(String(service?.spec?.ports?.[0]?.port), port ?? '', address);
      const to = workloads.find(({ labels }) => matches({ matchLabels: { ...service?.spec?.selector } }, labels));
      called.add(to?.name ?? '');
      // Where pods are called by the score, the client takes turns among them.
      if (from.kind === 'Deployment') t.is(service?.spec?.clusterIP, 'None', address);
    }
    for (const to of services(manifests)) {
      t.is(isAllowed(manifests, from, to, 'grpc'), called.has(to.name), `${from.name} to ${to.name}`);
    }
    const usesDatabase = Object.keys(env).some((name) => name.startsWith('LETHE_DATABASE'));
    for (const port of [5432, 6432])
      t.is(isAllowed(manifests, from, 'outside', port), usesDatabase, `${from.name} to the database or its pooler`);
    const isService = services(manifests).some(({ name, kind }) => name === from.name && kind === from.kind);
    t.is(
      isAllowed(manifests, from, 'outside', 443),
      isService || from.name === 'console',
      `${from.name} to a key set, the object store or the OpenID provider`,
    );
    for (const port of [9000, 7480, 8080])
      t.is(isAllowed(manifests, from, 'outside', port), from.name === 'job', `${from.name} to the object store`);
    for (const port of [4317, 4318])
      t.is(isAllowedTo(manifests, from, 'monitoring', port), isService, `${from.name} to the receiver of traces`);
    t.true(isAllowed(manifests, from, 'outside', 53), `${from.name} to the DNS cache of its node`);
  }
  const outsideDns = ofKind<INetworkPolicy>(manifests, 'NetworkPolicy')
    .flatMap(({ spec }) => spec?.egress ?? [])
    .filter(({ to, ports }) => to?.some(({ ipBlock }) => ipBlock) && ports?.some(({ port }) => port === 53))
    .map(({ to, ports }) => ({ to, ports: ports?.map(({ protocol, port }) => `${port}/${protocol}`).toSorted() }));
  // Where NodeLocal DNSCache listens, unless the cluster says otherwise.
  t.deepEqual(outsideDns, [{ to: [{ ipBlock: { cidr: '169.254.20.10/32' } }], ports: ['53/TCP', '53/UDP'] }]);
});

const cronNamed = (manifests: readonly Manifest[], name: string): ICronJob | undefined =>
  ofKind<ICronJob>(manifests, 'CronJob').find(({ metadata }) => metadata?.name === name);

testEach('what the object store holds without a row is reported once a week, and not removed', async (t, manifests) => {
  const cron = cronNamed(manifests, 'orphan-report');
  t.like(cron?.spec, { schedule: '0 12 * * 0', timeZone: 'Etc/UTC', concurrencyPolicy: 'Forbid' });
  const report = workloadNamed(manifests, 'CronJob', 'orphan-report');
  const given = environmentOf(manifests, report, (source) => source);
  t.deepEqual(commandOf(report, given), ['lethe', 'orphans']);
  const { env, read } = noting(given);
  const profile = await readProfile({}, env);
  t.is(profile.addresses.job, 'job:7400');
  await t.throwsAsync(openCredential(profile, {}, env), { message: /\/etc\/lethe\/key\/key\.json cannot be used/ });
  t.deepEqual(
    Object.keys(env).filter((name) => !read.has(name)),
    [],
  );
  t.is(profile.actor, 'orphan-report');
});

testEach('the CronJob runs once a night and never twice at a time, and is over before the next', (t, manifests) => {
  const cron = cronNamed(manifests, 'retention-purge');
  const job = cron?.spec?.jobTemplate.spec;
  t.like(cron?.spec, { schedule: '0 2 * * *', timeZone: 'Etc/UTC', concurrencyPolicy: 'Forbid' });
  const seconds = (cron?.spec?.startingDeadlineSeconds ?? 0) + (job?.activeDeadlineSeconds ?? 0);
  t.true(seconds > 3_600 && seconds < 86_400);
  t.true((job?.backoffLimit ?? 0) >= 1 && (job?.ttlSecondsAfterFinished ?? 0) >= 86_400);
  // A policy for failures is only taken with Never.
  t.is(job?.template.spec?.restartPolicy, 'Never');
  const fatal = job?.podFailurePolicy?.rules.find(({ action }) => action === 'FailJob')?.onExitCodes;
  t.deepEqual(fatal?.values, [EXIT.usage, EXIT.partial, EXIT.held]);
  t.is(fatal?.containerName, job?.template.spec?.containers[0]?.name);
});

// Kubernetes waits 10 s after the first pod that failed and doubles that; its documentation says up to 6 minutes, its
// code up to 10.
testEach('an outage of an hour fails no Job of a CronJob, and its retries end before its deadline', (t, manifests) => {
  for (const name of ['retention-purge', 'orphan-report']) {
    const { backoffLimit = 0, activeDeadlineSeconds = 0 } = cronNamed(manifests, name)?.spec?.jobTemplate.spec ?? {};
    for (const longest of [360, 600]) {
      const pauses = Array.from({ length: backoffLimit }, (_, n) => Math.min(10 * 2 ** n, longest));
      const seconds = pauses.reduce((sum, pause) => sum + pause, 0);
      t.true(seconds >= 3_600, `${name}: ${seconds} s of pauses`);
      t.true(seconds < activeDeadlineSeconds, `${name}: ${seconds} s of pauses in ${activeDeadlineSeconds} s`);
    }
  }
});

testRendered('the schedule is RETENTION_JOB_SCHEDULE_CRON', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-base-'));
  try {
    await cp(join(REPOSITORY, 'deploy/base'), folder, { recursive: true });
    const path = join(folder, 'kustomization.yaml');
    const text = await readFile(path, 'utf8');
    await writeFile(
      path,
      text.replace('RETENTION_JOB_SCHEDULE_CRON=0 2 * * *', 'RETENTION_JOB_SCHEDULE_CRON=30 3 * * 6'),
    );
    const cron = cronNamed(await render(folder), 'retention-purge');
    t.is(cron?.spec?.schedule, '30 3 * * 6');
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

testEach('the CronJob alone begins the nightly purge, not the service beside it', (t, manifests) => {
  const { env, settings } = settingsOf(manifests, workloadNamed(manifests, 'Deployment', 'retention'));
  t.is(env['RETENTION_JOB_SCHEDULE_CRON'], undefined);
  t.is((settings as RetentionSettings).purgeSchedule, undefined);
});

testRendered('what runs in production is named by its version', async (t) => {
  const { version } = JSON.parse(await readFile(join(REPOSITORY, 'package.json'), 'utf8')) as { version: string };
  for (const { name, container } of workloadsOf(t.context.rendered['overlays/prod'])) {
    t.true(container.image?.endsWith(`/lethe:${version}`), `${name}: ${container.image}`);
  }
  for (const { container } of workloadsOf(t.context.rendered['overlays/dev'])) t.is(container.image, 'lethe:dev');
});

testRendered('dev and prod do not share a namespace', (t) => {
  const namespaces = FOLDERS.map((folder) => [
    ...new Set(
      t.context.rendered[folder].filter(({ kind }) => kind !== 'Namespace').map(({ metadata }) => metadata.namespace),
    ),
  ]);
  t.deepEqual(namespaces, [['lethe'], ['lethe-dev'], ['lethe']]);
});

testEach(
  'the migrations are what the README deletes before a new version, and nothing else is',
  async (t, manifests) => {
    const readme = await readReadmes();
    const [, key = '', value = ''] = /^kubectl -n "\$NAMESPACE" delete job -l (\S+)=(\S+)$/m.exec(readme) ?? [];
    const own = ({ metadata }: Manifest) => (metadata as { labels?: Record<string, string> }).labels?.[key] === value;
    const found = manifests.filter(own).map(({ kind, metadata }) => `${kind}/${metadata.name}`);
    t.deepEqual(
      found.sort(),
      Object.keys(SETTINGS)
        .map((name) => `Job/${name}-migration`)
        .sort(),
    );
    for (const { spec } of ofKind<ICronJob>(manifests, 'CronJob')) {
      t.not(spec?.jobTemplate.metadata?.labels?.[key], value);
    }
  },
);

testRendered(
  'the README says of the overlays whose volumes name no StorageClass, and of no other, that the cluster needs one',
  async (t) => {
    const text = (await readReadmes()).replaceAll(/\s+/g, ' ');
    const said = [...text.matchAll(/`deploy\/overlays\/(\w+)` \(([^()]*)\)/g)]
      .filter(([, , about = '']) => about.includes('needs a default StorageClass'))
      .map(([, overlay]) => `overlays/${overlay}`);
    const needing = FOLDERS.filter((folder) =>
      ofKind<IPersistentVolumeClaim>(t.context.rendered[folder], 'PersistentVolumeClaim').some(
        ({ spec }) => spec?.storageClassName === undefined,
      ),
    );
    t.deepEqual(said, needing);
    t.deepEqual(needing, ['overlays/dev']);
  },
);

testEach(
  'a Job that the README makes by hand is one of a CronJob that is there, and of which it names the warning',
  async (t, manifests) => {
    const text = await readReadmes();
    const names = ofKind<ICronJob>(manifests, 'CronJob').map(({ metadata }) => metadata?.name ?? '');
    const [, before = ''] = /((?:.+\n)+)\n(?:<!--.*-->\n)?```sh\n.* create job --from=cronjob\//.exec(text) ?? [];
    t.regex(
      before.replaceAll('\n', ' '),
      /warns of a Job that is made from the CronJob by hand \(`UnexpectedJob`\); it runs all the same/,
    );
    const made = [...text.matchAll(/create job --from=cronjob\/(\S+)/g)].map(([, name = '']) => name);
    t.true(made.length > 0);
    for (const name of made) t.true(names.includes(name), name);
    // The controller warns of it, since no run of its own is missing: it makes them by itself, one at a time.
    for (const { spec } of ofKind<ICronJob>(manifests, 'CronJob')) {
      t.true(spec !== undefined && spec.suspend !== true);
      t.is(spec?.concurrencyPolicy, 'Forbid');
    }
  },
);

testEach('migrations give up one day, and go away when they are over', (t, manifests) => {
  for (const { spec } of ofKind<IJob>(manifests, 'Job')) {
    t.true((spec?.backoffLimit ?? 0) > 0 && (spec?.activeDeadlineSeconds ?? 0) > 0);
    t.true((spec?.ttlSecondsAfterFinished ?? 0) > 0);
  }
});

testRendered('with the component tls everything speaks mTLS, and nothing asks for health in plaintext', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-tls-overlay-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  await cp(join(REPOSITORY, 'deploy'), folder, { recursive: true });
  await mkdir(join(folder, 'overlays/tls'));
  const overlay = 'kind: Kustomization\nresources: [../prod]\ncomponents: [../../components/tls]\n';
  await writeFile(join(folder, 'overlays/tls/kustomization.yaml'), overlay);
  const manifests = await render(join(folder, 'overlays/tls'));
  for (const manifest of manifests) t.deepEqual(await findProblems(manifest), [], manifest.metadata.name);
  const [cert, key, ca] = ['tls.crt', 'tls.key', 'ca.crt'].map((name) => `/etc/lethe/tls/${name}`);
  const secretOf = ({ pod }: Workload) => pod.volumes?.find(({ name }) => name === 'tls')?.secret?.secretName;
  t.is(services(manifests).length, 4);
  for (const workload of services(manifests)) {
    const { settings } = settingsOf(manifests, workload);
    t.like(settings, { tls: { cert, key, clientCa: ca }, clientTls: { ca, cert, key }, reflection: false });
    const { startupProbe, readinessProbe, livenessProbe } = workload.container;
    for (const probe of [startupProbe, readinessProbe, livenessProbe]) t.true(probe && !('grpc' in probe));
    t.is(secretOf(workload), `${workload.name}-tls`);
  }
  const console = workloadNamed(manifests, 'Deployment', 'console');
  const consoleEnv = environmentOf(manifests, console, (source) => source);
  t.like(consoleEnv, { LETHE_TLS_CA: ca, LETHE_TLS_CLIENT_CERT: cert, LETHE_TLS_CLIENT_KEY: key });
  t.is(secretOf(console), 'console-tls');
  for (const name of ['retention-purge', 'orphan-report']) {
    const workload = workloadNamed(manifests, 'CronJob', name);
    const { tls } = await readProfile(
      {},
      environmentOf(manifests, workload, (source) => source),
    );
    t.deepEqual(tls, { ca, cert, key } as typeof tls);
    t.is(secretOf(workload), `${name}-tls`);
  }
});
