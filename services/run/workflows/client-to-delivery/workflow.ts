import { DomainError } from '#libs/kernel/domain-error.ts';
import type { JsonObject } from '../../domain/run.ts';
import { declare, effectId, type StepContext, type Workflow, type WorkflowStep } from '../../domain/workflow.ts';
import {
  type Asset,
  type Brief,
  cutAssets,
  draft as draftText,
  inspect,
  pack,
  passes,
  plan,
  scoreOf,
  summarise,
} from './content.ts';
import { parseInput } from './input.ts';

const briefOf = ({ outputs }: StepContext): Brief => outputs['brief']?.['brief'] as Brief;
const assetsOf = ({ outputs }: StepContext): readonly Asset[] => outputs['draft']?.['assets'] as readonly Asset[];
const idOf = ({ outputs }: StepContext, step: string, name: string): string => String(outputs[step]?.[name] ?? '');

/** The brief is kept, or found where it exists, and the run's intake of it is written. */
const brief: WorkflowStep = {
  name: 'brief',
  creates: ['onboarding_brief', 'onboarding_intake'],
  participants: {},
  lookUp({ input }) {
    const { briefId } = parseInput(input);
    return briefId === undefined ? undefined : { type: 'onboarding_brief', id: briefId };
  },
  act({ runId, input, found }) {
    const { briefId = effectId(runId, 'onboarding_brief'), brief: given } = parseInput(input);
    // A brief that exists is the one that counts, whatever came with this run.
    const known = found && toBrief(found);
    const used = known ?? given;
    if (!used) throw new DomainError('failed-precondition', 'BRIEF_NOT_FOUND', 'The brief does not exist.');
    const intake = { id: effectId(runId, 'onboarding_intake'), brief_id: briefId, summary: summarise(used) };
    const made = known ? [] : [{ id: briefId, ...used }];
    return {
      finish: () => ({
        effects: { onboarding_brief: made, onboarding_intake: [intake] },
        output: { brief_id: briefId, brief: used },
        failure: undefined,
      }),
    };
  },
};

const strategy: WorkflowStep = {
  name: 'strategy',
  creates: ['strategy_document'],
  participants: {},
  act(context) {
    const { title, body } = plan(briefOf(context));
    const id = effectId(context.runId, 'strategy_document');
    const document = { id, brief_id: idOf(context, 'brief', 'brief_id'), title, body };
    return {
      finish: () => ({
        effects: { strategy_document: [document] },
        output: { strategy_id: id, title, body },
        failure: undefined,
      }),
    };
  },
};

/** The draft and its bundle, and a job in JobService that holds the assets as objects. */
const draft: WorkflowStep = {
  name: 'draft',
  creates: ['production_drafts', 'production_bundles', 'production_bundle_assets'],
  participants: { job: ['job', 'task', 'object'] },
  act(context) {
    const { runId, outputs } = context;
    const used = briefOf(context);
    const title = String(outputs['strategy']?.['title'] ?? '');
    const body = draftText(used, { title, body: String(outputs['strategy']?.['body'] ?? '') });
    const assets = cutAssets(used);
    const draftId = effectId(runId, 'production_drafts');
    const bundleId = effectId(runId, 'production_bundles');
    const remote = {
      participant: 'job',
      action: 'create-job',
      input: {
        display_name: title.slice(0, 200),
        task_names: ['render'],
        state: 'COMPLETED',
        assets: assets.map(({ channel, headline, copy }) => ({
          name: `${channel}.txt`,
          content_type: 'text/plain',
          text: `${headline}\n\n${copy}\n`,
        })),
      },
    };
    return {
      remote,
      finish: (answer) => ({
        effects: {
          production_drafts: [{ id: draftId, strategy_id: idOf(context, 'strategy', 'strategy_id'), title, body }],
          production_bundles: [{ id: bundleId, draft_id: draftId, job_id: answer['job_id'] ?? null }],
          production_bundle_assets: assets.map((asset, index) => ({
            id: effectId(runId, 'production_bundle_assets', index),
            bundle_id: bundleId,
            ...asset,
          })),
        },
        output: { draft_id: draftId, bundle_id: bundleId, job_id: answer['job_id'] ?? null, assets },
        failure: undefined,
      }),
    };
  },
};

/** Quality control. What it finds is written also when it fails the run: the incident tells of it meanwhile. */
const qc: WorkflowStep = {
  name: 'qc',
  creates: ['qc_results', 'qc_issues'],
  participants: { incident: ['incident', 'incident_payload'] },
  act(context) {
    const { runId, input } = context;
    const { environmentId, forceQcFail } = parseInput(input);
    const issues = inspect(briefOf(context), assetsOf(context), forceQcFail);
    const resultId = effectId(runId, 'qc_results');
    const hasPassed = passes(issues);
    const score = scoreOf(issues);
    const rows = issues.map((issue, index) => ({
      id: effectId(runId, 'qc_issues', index),
      result_id: resultId,
      ...issue,
    }));
    const remote = hasPassed
      ? undefined
      : {
          participant: 'incident',
          action: 'open-incident',
          input: {
            environment_id: environmentId,
            title: 'A draft failed quality control',
            drift_summary: { draft_id: idOf(context, 'draft', 'draft_id'), score, issues },
          },
        };
    const cause = hasPassed
      ? undefined
      : `QC_FAILED: ${issues.filter((issue) => issue.severity === 'BLOCKER').length} blocking issues.`;
    return {
      remote,
      cause,
      finish: () => ({
        effects: {
          qc_results: [{ id: resultId, draft_id: idOf(context, 'draft', 'draft_id'), passed: hasPassed, score }],
          qc_issues: rows,
        },
        output: { result_id: resultId, score, issues: issues.length },
        failure: cause,
      }),
    };
  },
};

const delivery: WorkflowStep = {
  name: 'delivery',
  creates: ['delivery_packages', 'delivery_artifacts'],
  participants: {},
  act(context) {
    const { runId, input } = context;
    const files = pack(assetsOf(context));
    const packageId = effectId(runId, 'delivery_packages');
    const { client, product } = briefOf(context);
    const name = `${client}: ${product}`;
    return {
      finish: () => ({
        effects: {
          delivery_packages: [
            { id: packageId, draft_id: idOf(context, 'draft', 'draft_id'), name, file_count: files.length },
          ],
          delivery_artifacts: files.map((file, index) => ({
            id: effectId(runId, 'delivery_artifacts', index),
            package_id: packageId,
            ...file,
          })),
        },
        output: { package_id: packageId, files: files.length },
        failure: parseInput(input).forceDeliveryFail
          ? 'DELIVERY_FAILED: The run was told to fail its delivery.'
          : undefined,
      }),
    };
  },
};

/**
 * From a client's brief to a delivered package, after seed "Phase 4 Lane C": ten tables in RunService, a job with the
 * assets in JobService, an incident in IncidentService when quality control fails.
 */
export const clientToDelivery: Workflow = declare({
  name: 'client_to_delivery',
  types: [
    {
      name: 'onboarding_brief',
      parents: {},
      columns: { client: 'text', product: 'text', audience: 'text', tone: 'text', goals: 'jsonb', channels: 'jsonb' },
      isShared: true,
    },
    { name: 'onboarding_intake', parents: { brief_id: 'onboarding_brief' }, columns: { summary: 'text' } },
    { name: 'strategy_document', parents: { brief_id: 'onboarding_brief' }, columns: { title: 'text', body: 'text' } },
    {
      name: 'production_drafts',
      parents: { strategy_id: 'strategy_document' },
      columns: { title: 'text', body: 'text' },
    },
    { name: 'production_bundles', parents: { draft_id: 'production_drafts' }, columns: { job_id: 'uuid' } },
    {
      name: 'production_bundle_assets',
      parents: { bundle_id: 'production_bundles' },
      columns: { channel: 'text', headline: 'text', copy: 'text' },
    },
    {
      name: 'qc_results',
      parents: { draft_id: 'production_drafts' },
      columns: { passed: 'boolean', score: 'integer' },
    },
    {
      name: 'qc_issues',
      parents: { result_id: 'qc_results' },
      columns: { rule: 'text', severity: 'text', message: 'text' },
    },
    {
      name: 'delivery_packages',
      parents: { draft_id: 'production_drafts' },
      columns: { name: 'text', file_count: 'integer' },
    },
    {
      name: 'delivery_artifacts',
      parents: { package_id: 'delivery_packages' },
      columns: { name: 'text', content: 'text', bytes: 'integer', digest: 'text' },
    },
  ],
  steps: [brief, strategy, draft, qc, delivery],
  checkInput: (input) => void parseInput(input),
  // Whether quality control will need the environment is not known yet; that it is there is checked in any case.
  foresee: (input) => [
    {
      participant: 'incident',
      action: 'open-incident',
      input: { environment_id: parseInput(input).environmentId },
    },
  ],
  outputNames: { job_id: { step: 'draft', participant: 'job', resourceType: 'job' } },
  output: (outputs) => ({
    brief_id: outputs['brief']?.['brief_id'],
    strategy_id: outputs['strategy']?.['strategy_id'],
    draft_id: outputs['draft']?.['draft_id'],
    job_id: outputs['draft']?.['job_id'],
    package_id: outputs['delivery']?.['package_id'],
    files: outputs['delivery']?.['files'],
  }),
});

const toBrief = (row: JsonObject): Brief => ({
  client: String(row['client']),
  product: String(row['product']),
  audience: String(row['audience']),
  tone: String(row['tone']),
  goals: row['goals'] as readonly string[],
  channels: row['channels'] as readonly string[],
});
