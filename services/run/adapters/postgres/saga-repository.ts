import { DomainError, requestIdReused, runDeleted } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { readFigure } from '#libs/postgres/read-figure.ts';
import { codeOf } from '#libs/postgres/sql-errors.ts';
import { leaseLost, runNotFound } from '../../domain/errors.ts';
import type { JsonObject, RunState } from '../../domain/run.ts';
import type { Ending, Removal, RemovedCounts, Saga, SagaStep } from '../../domain/saga.ts';
import type { StepState } from '../../domain/step.ts';
import { type Declaration, digestOf, type ResourceType } from '../../domain/workflow.ts';
import type { SagaRepository, SagaRun } from '../../use-cases/saga-ports.ts';
import { audit } from './audit.ts';
import { makeContentStatements } from './content-repository.ts';
import { assertNoPurge } from './hidden-runs.ts';
import { lockRun, RUN_COLUMNS, type RunColumns, toRun } from './run-repository.ts';
import { toWriteStatements, type Written } from './saga-write-statements.ts';

const FOREIGN_KEY_VIOLATION = '23503';

/** The columns of a run that only its saga has. */
interface SagaColumns {
  readonly declaration: Declaration | null;
  readonly ending: Ending;
  readonly attempts: number;
  readonly parked_reason: string | null;
  readonly compensating_at: Temporal.Instant | null;
  readonly actor: string;
  readonly subject: string;
  readonly trust_entry: string | null;
  readonly claim_token: number;
}

interface StepColumns {
  readonly name: string;
  readonly position: number;
  readonly state: StepState;
  readonly participants: readonly string[];
  readonly attempts: number;
  readonly error: string | null;
  readonly output: JsonObject | null;
  readonly removed: RemovedCounts;
  readonly removals: readonly Removal[];
}

const STEPS = `select name, position, state, participants, attempts, error, output, removed, removals
  from workflow_run_steps where tenant_id = $1 and run_id = $2 order by position`;

/** The runs as sagas in Postgres; `types` are those of all workflows. */
export function makeSagaRepository(database: Database, types: readonly ResourceType[]): SagaRepository {
  const content = makeContentStatements(types);
  const nameOf = makeStatementNames();
  const digests = new WeakMap<Declaration, string>();
  const digestFor = (declaration: Declaration): string => {
    const digest = digests.get(declaration) ?? digestOf(declaration);
    digests.set(declaration, digest);
    return digest;
  };

  const findBegun: SagaRepository['findBegun'] = async (tenantId, { id, fingerprint: print }) => {
    const [known] = await database.readForTenant<RunColumns & { fingerprint: string }>(tenantId, {
      text: `select ${RUN_COLUMNS('r')}, q.fingerprint from request_ids q
             left join workflow_runs r on r.tenant_id = q.tenant_id and r.id = q.result_id and r.deleted_at is null
             where q.tenant_id = $1 and q.method = 'StartRun' and q.request_id = $2`,
      values: [tenantId, id],
    });
    if (!known) return undefined;
    if (known.fingerprint !== print) throw requestIdReused(id);
    if (!known.id) throw runNotFound();
    return toRun(known);
  };

  const keepDeclaration: SagaRepository['keepDeclaration'] = async (declaration) => {
    await database.acrossTenants({
      text: 'insert into workflow_declarations (digest, declaration) values ($1, $2::jsonb) on conflict do nothing',
      values: [digestFor(declaration), JSON.stringify(declaration)],
    });
  };

  return {
    keepDeclaration,

    async begin({ run, displayName, request }, hold) {
      const { tenantId, runId, workflow, declaration, input = {}, actor, subject, trustEntry } = run;
      const first = run.steps[0];
      if (!first || !declaration) throw new Error('a run begins with its declaration and a first step');
      const values = [
        ...[tenantId, runId, workflow, displayName, JSON.stringify(input), digestFor(declaration), actor],
        ...[hold?.owner ?? null, hold?.leaseMs ?? 0, first.name, first.participants, subject, trustEntry ?? null],
        ...(request ? [request.id, request.fingerprint] : []),
      ];
      const remembered = `request as (
        insert into request_ids (tenant_id, method, request_id, fingerprint, result_id)
        select $1, 'StartRun', $14, $15, $2::uuid from declared on conflict do nothing returning 1),`;
      const text = `with declared as materialized (select digest from workflow_declarations where digest = $6),
         ${request ? remembered : ''} run as (
           insert into workflow_runs (tenant_id, id, workflow, display_name, state, driver, input, declaration, actor,
             subject, trust_entry, current_step, claim_owner, claim_token, due_at, created_at, started_at, updated_at)
           select $1, $2::uuid, $3, $4, 'RUNNING', 'ENGINE', $5::jsonb, declared.digest, $7, $12, $13, $10, $8::text,
                  case when $8::text is null then 0 else 1 end, now.at + $9 * interval '1 ms', now.at, now.at, now.at
           from declared cross join (select clock_timestamp() as at) now ${request ? 'cross join request' : ''}
           returning ${RUN_COLUMNS()}),
         step as (
           insert into workflow_run_steps (tenant_id, run_id, name, position, state, participants, started_at)
           select $1, $2::uuid, $10, 1, 'RUNNING', $11::text[], run.started_at from run returning 1)
         select ${RUN_COLUMNS()} from run`;
      const begin = async () => {
        const [rows = []] = await database.writeForTenant(tenantId, [{ text, values, name: nameOf(text) }]);
        return rows[0] as RunColumns | undefined;
      };
      const known = async () => request && (await findBegun(tenantId, request));
      let row = await begin();
      if (!row) {
        const begun = await known();
        if (begun) return { run: begun, claim: undefined };
        // The database is not the one that kept it: it was restored, or made anew.
        await keepDeclaration(declaration);
        row = await begin();
      }
      if (row) return { run: toRun(row), claim: hold && { run, token: 1, version: row.version, isAfterLoss: false } };
      const begun = await known();
      if (!begun) throw new Error('a run was not begun, and no other call has begun it');
      return { run: begun, claim: undefined };
    },

    findBegun,

    async findDue(limit) {
      const rows = await database.acrossTenants<{ tenant_id: string; id: string }>({
        text: 'select tenant_id, id from due_runs($1)',
        values: [limit],
      });
      return rows.map(({ tenant_id, id }) => ({ tenantId: tenant_id, runId: id }));
    },

    async claim({ tenantId, runId }, owner, leaseMs) {
      // The steps are read by a statement of their own: it sees what the holder before committed last.
      const claimText = `with due as (
          select claim_owner as before from workflow_runs
          where tenant_id = $1 and id = $2 and due_at <= clock_timestamp() for update skip locked)
        update workflow_runs r set claim_owner = $3, claim_token = r.claim_token + 1,
               -- A holder that let its lease run out has vanished: that is an attempt too.
               attempts = r.attempts + case when due.before is null then 0 else 1 end,
               due_at = clock_timestamp() + $4 * interval '1 ms'
        -- The key once more, not a join: behind row-level security a join is planned over all of the tenant's runs.
        from due where r.tenant_id = $1 and r.id = $2
        returning r.workflow, r.state, r.ending, r.current_step, r.attempts, r.error, r.parked_reason, r.output, r.input,
                  r.actor, r.subject, r.trust_entry, r.claim_token, r.version, due.before,
                  (select declaration from workflow_declarations d where d.digest = r.declaration) as declaration`;
      const [claimed = [], steps = []] = await database.writeForTenant(tenantId, [
        { text: claimText, values: [tenantId, runId, owner, leaseMs], name: nameOf(claimText) },
        { text: STEPS, values: [tenantId, runId], name: nameOf(STEPS) },
      ]);
      const row = claimed[0] as (RunColumns & SagaColumns & { before: string | null }) | undefined;
      if (!row) return undefined;
      const run: SagaRun = {
        ...toSaga(row, steps as StepColumns[]),
        tenantId,
        runId,
        workflow: row.workflow,
        declaration: row.declaration ?? undefined,
        actor: row.actor,
        subject: row.subject,
        trustEntry: row.trust_entry ?? undefined,
      };
      return { run, token: row.claim_token, version: row.version, isAfterLoss: row.before !== null };
    },

    async endLease({ run: { tenantId, runId }, token }, pauseMs) {
      const text = `update workflow_runs set due_at = clock_timestamp() + $4 * interval '1 ms'
        where tenant_id = $1 and id = $2 and claim_token = $3 and claim_owner is not null`;
      await database.writeForTenant(tenantId, [
        { text, values: [tenantId, runId, token, pauseMs], name: nameOf(text) },
      ]);
    },

    async write(claim, write) {
      const { tenantId } = claim.run;
      const statements = toWriteStatements(claim, write, content).map((each) => ({ ...each, name: nameOf(each.text) }));
      const rows = await database.writeForTenant(tenantId, statements).catch((error: unknown) => {
        // What this step hangs its rows on has just gone with another run.
        throw codeOf(error) === FOREIGN_KEY_VIOLATION ? concurrentUpdate(error) : error;
      });
      const row = rows.at(-1)?.[0] as Written | undefined;
      if (row?.hidden) throw runDeleted(row.hidden);
      if (!row?.held) throw leaseLost();
      return row.removed ?? {};
    },

    async findEffect(tenantId, type, id) {
      const text = content.select(type);
      const [row] = await database.readForTenant<JsonObject & { readonly hidden_run: string | null }>(tenantId, {
        text,
        values: [tenantId, id],
        name: nameOf(text),
      });
      if (row?.hidden_run) throw runDeleted(row.hidden_run);
      return row;
    },

    order: ({ tenantId, runId, action, actor, subject, trustEntry, reason }, change) =>
      database.forTenant(tenantId, async (trx) => {
        const found = await lockRun(trx, tenantId, runId);
        if (!found || found.row.deleted_at !== null) return undefined;
        const { rows: steps } = await trx.raw(STEPS.replace('$1', ':tenantId').replace('$2', ':runId'), {
          tenantId,
          runId,
        });
        const row = found.row as RunColumns & SagaColumns;
        const run = toRun(row);
        const before = toSaga(row, steps as StepColumns[]);
        const after = change(run, before);
        if (after === before) return run;
        if (action === 'retry') await assertNoPurge(trx, { tenantId, runId });
        const { rows } = await trx.raw(
          `update workflow_runs
           set state = :state, ending = :ending, current_step = :currentStep, attempts = :attempts, error = :error,
               ${after.input === before.input ? '' : 'input = null,'}
               ${action === 'retry' ? '' : 'actor = :actor, subject = :subject, trust_entry = :trustEntry,'}
               ${row.compensating_at === null ? 'compensating_at = clock_timestamp(),' : ''}
               parked_reason = :parkedReason, finished_at = null, due_at = clock_timestamp(), claim_owner = null,
               claim_token = claim_token + 1, version = version + 1, updated_at = clock_timestamp()
           where tenant_id = :tenantId and id = :runId returning ${RUN_COLUMNS()}`,
          {
            tenantId,
            runId,
            state: after.state,
            ending: after.ending,
            currentStep: after.currentStep ?? null,
            attempts: after.attempts,
            error: after.error ?? null,
            parkedReason: after.parkedReason ?? null,
            ...(action === 'retry' ? {} : { actor, subject, trustEntry: trustEntry ?? null }),
          },
        );
        await audit(trx, { tenantId, runId, actor, subject, trustEntry, action, reason, outcome: after.state });
        return toRun(rows[0] as RunColumns);
      }),

    oldestUnfinishedSeconds: () => readFigure(database, 'oldest_unfinished_run_seconds'),

    parkedCount: () => readFigure(database, 'parked_runs'),
  };
}

const concurrentUpdate = (cause: unknown): DomainError =>
  new DomainError('aborted', 'CONCURRENT_UPDATE', 'Another run changed what this one uses.', {}, { cause });

const toSaga = (row: RunColumns & SagaColumns, steps: readonly StepColumns[]): Saga => ({
  state: row.state as RunState,
  ending: row.ending,
  input: row.input ?? undefined,
  currentStep: row.current_step ?? undefined,
  attempts: row.attempts,
  error: row.error ?? undefined,
  parkedReason: row.parked_reason ?? undefined,
  output: row.output ?? undefined,
  steps: steps.map(
    (step): SagaStep => ({
      name: step.name,
      position: step.position,
      state: step.state,
      participants: step.participants,
      attempts: step.attempts,
      error: step.error ?? undefined,
      output: step.output ?? undefined,
      removed: step.removed,
      removals: step.removals,
    }),
  ),
});

/** A name for each text, by what it says, so that a connection prepares it once. They are few: one a shape of write. */
function makeStatementNames(): (text: string) => string {
  const names = new Map<string, string>();
  return (text) => {
    const known = names.get(text);
    if (known !== undefined) return known;
    const name = `saga-${fingerprint({ text }).slice(0, 24)}`;
    names.set(text, name);
    return name;
  };
}
