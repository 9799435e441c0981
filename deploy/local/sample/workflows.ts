import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import type { Stack } from '../stack.ts';
import { type Counts, countFiles, countRows, showStages } from './evidence.ts';
import type { Part } from './part.ts';

const TENANT = 'atelier';
const WAYS = [
  { stage: 'delivered', flags: {}, end: 'COMPLETED' },
  { stage: 'QC failed', flags: { force_qc_fail: true }, end: 'COMPENSATED' },
  { stage: 'delivery failed', flags: { force_delivery_fail: true }, end: 'COMPENSATED' },
] as const;
const BRIEF = {
  client: 'Kestrel Bikes',
  product: 'the K2 cargo bike',
  audience: 'parents in towns',
  tone: 'warm',
  goals: ['fill test rides', 'name the dealer'],
  channels: ['newsletter', 'posters'],
};
const TABLES = {
  run: [
    'onboarding_brief',
    'onboarding_intake',
    'strategy_document',
    'production_drafts',
    'production_bundles',
    'production_bundle_assets',
    'qc_results',
    'qc_issues',
    'delivery_packages',
    'delivery_artifacts',
    'workflow_runs',
  ],
  job: ['jobs', 'artifacts'],
  incident: ['incidents', 'incident_payloads'],
} as const;

/** What each way must add, counted by hand: a run that failed leaves its own row, and the shell of an incident. */
const ADDED: readonly Counts[] = [
  {
    onboarding_brief: 1,
    onboarding_intake: 1,
    strategy_document: 1,
    production_drafts: 1,
    production_bundles: 1,
    production_bundle_assets: 2,
    qc_results: 1,
    delivery_packages: 1,
    delivery_artifacts: 2,
    workflow_runs: 1,
    jobs: 1,
    artifacts: 2,
    'objects in the store': 2,
  },
  { workflow_runs: 1, incidents: 1 },
  { workflow_runs: 1 },
];

/** client_to_delivery three ways: one delivers, two fail and leave nothing behind. */
export const workflows: Part = async (stack, say) => {
  const { runs, incidents } = stack.clients({ tenantId: TENANT, role: 'member' });
  const { environments } = await incidents.listEnvironments({});
  const environment = environments[0] ?? (await incidents.createEnvironment({ displayName: 'studio' })).environment;
  const mistakes: string[] = [];
  const stages: [string, Counts][] = [['before', await count(stack)]];
  for (const [index, { stage, flags, end }] of WAYS.entries()) {
    const input = { brief: BRIEF, environment_id: environment?.id ?? '', ...flags };
    const { run } = await runs.startRun({ workflow: 'client_to_delivery', displayName: stage, input });
    let last = run;
    for await (const update of runs.watchRun({ runId: run?.id ?? '' })) last = update.run;
    if (last?.state !== RunState[end]) mistakes.push(`${stage}: the run is not ${end} but ${last?.state}`);
    else say(`client_to_delivery, ${stage}: the run is ${end}. ${last.error}`.trimEnd());
    const before = stages.at(-1)?.[1] ?? {};
    const after = await count(stack);
    for (const what of Object.keys(after)) {
      const added = (after[what] ?? 0) - (before[what] ?? 0);
      const expected = ADDED[index]?.[what] ?? 0;
      if (added !== expected) mistakes.push(`${stage}: ${what} grew by ${added}, not by ${expected}`);
    }
    stages.push([stage, after]);
  }
  return { table: showStages(`${TENANT}: rows`, stages), mistakes };
};

async function count(stack: Stack): Promise<Counts> {
  return {
    ...(await countRows(stack.superuserUrl('run'), TABLES.run, [TENANT])),
    ...(await countRows(stack.superuserUrl('job'), TABLES.job, [TENANT])),
    'objects in the store': await countFiles(`${stack.objectFolder}/objects`, [TENANT]),
    ...(await countRows(stack.superuserUrl('incident'), TABLES.incident, [TENANT])),
  };
}
