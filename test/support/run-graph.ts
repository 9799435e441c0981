import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import type { Stack } from '#deploy/local/stack.ts';
import { type Deletion, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { queryOnce } from './postgres.ts';
import { storedFiles } from './stored-files.ts';
import { until } from './test-stack.ts';

/** A run and what hangs on it. */
export interface RunGraph {
  readonly tenantId: string;
  readonly runId: string;
  readonly jobIds: readonly string[];
}

/** How large a graph is. */
export interface GraphSize {
  readonly steps?: number;
  readonly jobs?: number;
  readonly objectsPerJob?: number;
  /** Open incidents with a payload; they need the stack's IncidentService. */
  readonly incidents?: number;
  readonly isFinished?: boolean;
  /** The participants that each step is recorded with; `job` by default. */
  readonly participants?: readonly string[];
}

/** Makes a finished run of a tenant with steps, jobs and objects, as its callers would. */
export async function makeRunGraph(
  stack: Stack,
  tenantId: string,
  {
    steps = 2,
    jobs: jobCount = 2,
    objectsPerJob = 2,
    incidents: incidentCount = 0,
    isFinished = true,
    participants = ['job'],
  }: GraphSize = {},
): Promise<RunGraph> {
  const { runs, jobs } = stack.clients({ tenantId, role: 'admin' });
  const { run } = await runs.createRun({ workflow: 'transcribe', displayName: 'a run', input: { calls: 1 } });
  const runId = run?.id ?? '';
  for (let step = 1; step <= steps; step += 1) {
    const name = `step-${step}`;
    await runs.recordStep({ runId, name, state: StepState.RUNNING, participants: [...participants] });
    await runs.recordStep({ runId, name, state: StepState.COMPLETED });
  }
  const jobIds = await Promise.all(
    Array.from({ length: jobCount }, async () => {
      const { job } = await jobs.createJob({ runId, step: 'step-1', taskNames: ['transcribe'] });
      const jobId = job?.id ?? '';
      for (let object = 1; object <= objectsPerJob; object += 1) {
        const content = Buffer.from(`sound ${object}`);
        const artifact = { kind: ArtifactKind.INPUT, name: `${object}.wav`, contentType: 'audio/wav', content };
        await uploadArtifact(jobs, jobId, artifact);
      }
      await jobs.cancelJob({ jobId });
      return jobId;
    }),
  );
  if (incidentCount > 0) {
    const { incidents } = stack.clients({ tenantId, role: 'admin' });
    const { environment } = await incidents.createEnvironment({ displayName: runId });
    for (let incident = 1; incident <= incidentCount; incident += 1) {
      const driftSummary = { workflow: 'billing', lines: incident };
      const environmentId = environment?.id ?? '';
      await incidents.openIncident({ environmentId, title: 'drift', driftSummary, runId, step: 'step-1' });
    }
  }
  if (isFinished) await runs.finishRun({ runId, state: RunState.COMPLETED, output: { words: 7 } });
  return { tenantId, runId, jobIds };
}

/** What the databases and the store hold of a graph, by hand-written SQL and a listing. */
export interface Evidence {
  readonly runs: number;
  readonly hiddenRuns: number;
  readonly steps: number;
  readonly hiddenSteps: number;
  readonly jobs: number;
  readonly hiddenJobs: number;
  readonly tasks: number;
  readonly artifacts: number;
  readonly objects: number;
}

/** Nothing at all. */
export const NOTHING: Evidence = {
  runs: 0,
  hiddenRuns: 0,
  steps: 0,
  hiddenSteps: 0,
  jobs: 0,
  hiddenJobs: 0,
  tasks: 0,
  artifacts: 0,
  objects: 0,
};

/** Looks without any of the product's code. */
export async function evidenceOf(stack: Stack, { tenantId, runId, jobIds }: RunGraph): Promise<Evidence> {
  const [ofRun] = await queryOnce<Pick<Evidence, 'runs' | 'hiddenRuns' | 'steps' | 'hiddenSteps'>>(
    stack.superuserUrl('run'),
    `select (select count(*)::int from workflow_runs where tenant_id = $1 and id = $2) as runs,
            (select count(*)::int from workflow_runs where tenant_id = $1 and id = $2 and deleted_at is not null) as "hiddenRuns",
            (select count(*)::int from workflow_run_steps where tenant_id = $1 and run_id = $2) as steps,
            (select count(*)::int from workflow_run_steps
             where tenant_id = $1 and run_id = $2 and deleted_at is not null) as "hiddenSteps"`,
    [tenantId, runId],
  );
  const [ofJobs] = await queryOnce<Pick<Evidence, 'jobs' | 'hiddenJobs' | 'tasks' | 'artifacts'>>(
    stack.superuserUrl('job'),
    `select (select count(*)::int from jobs where tenant_id = $1 and (run_id = $2 or id = any($3))) as jobs,
            (select count(*)::int from jobs where tenant_id = $1 and run_id = $2 and deleted_at is not null) as "hiddenJobs",
            (select count(*)::int from job_tasks where tenant_id = $1 and job_id = any($3)) as tasks,
            (select count(*)::int from artifacts where tenant_id = $1 and job_id = any($3)) as artifacts`,
    [tenantId, runId, jobIds],
  );
  const files = await Promise.all(jobIds.map((jobId) => storedFiles(stack, { tenantId, jobId })));
  if (!ofRun || !ofJobs) throw new Error('a count gave no row');
  return { ...ofRun, ...ofJobs, objects: files.flat().length };
}

/** How many of a graph's incidents there are, and how many of them still have a payload, by hand-written SQL. */
export async function incidentsOf(
  stack: Stack,
  { tenantId, runId }: RunGraph,
): Promise<{ readonly shells: number; readonly payloads: number; readonly purged: number }> {
  const [counted] = await queryOnce<{ shells: number; payloads: number; purged: number }>(
    stack.superuserUrl('incident'),
    `select count(*)::int as shells, count(p.incident_id)::int as payloads, count(i.payload_purged_at)::int as purged
     from incidents i left join incident_payloads p on p.tenant_id = i.tenant_id and p.incident_id = i.id
     where i.tenant_id = $1 and i.run_id = $2`,
    [tenantId, runId],
  );
  if (!counted) throw new Error('a count gave no row');
  return counted;
}

const SETTLED: ReadonlySet<DeletionState> = new Set([
  DeletionState.COMPLETE,
  DeletionState.STUCK,
  DeletionState.CANCELLED,
]);

/** The deletion once nothing happens to it any more. */
export async function settled(
  stack: Stack,
  tenantId: string,
  deletionId: string | undefined,
  deadlineMs = 60_000,
): Promise<Deletion> {
  const { runs } = stack.clients({ tenantId, role: 'admin' });
  let last: Deletion | undefined;
  await until(
    'the deletion settles',
    async () => {
      last = (await runs.getDeletion({ deletionId: deletionId ?? '' })).deletion;
      return last !== undefined && SETTLED.has(last.state);
    },
    deadlineMs,
  );
  if (!last) throw new Error('no deletion was read');
  return last;
}
