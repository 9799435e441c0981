import { DomainError, requestIdReused, runDeleted } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Database, Statement } from '#libs/postgres/open-database.ts';
import { readFigure } from '#libs/postgres/read-figure.ts';
import { codeOf } from '#libs/postgres/sql-errors.ts';
import { OWN_PARTICIPANT } from '../../domain/deletion.ts';
import { leaseLost, runNotFound } from '../../domain/errors.ts';
import { isTerminal, type JsonObject, type RunState } from '../../domain/run.ts';
import {
  type Ending,
  type Removal,
  type RemovedCounts,
  removalsOf,
  type Saga,
  type SagaStep,
  sumByParticipant,
  sumRemoved,
  toRemovedCounts,
} from '../../domain/saga.ts';
import type { StepState } from '../../domain/step.ts';
import { type Declaration, digestOf, type ResourceType } from '../../domain/workflow.ts';
import type { Removed, SagaClaim, SagaRepository, SagaRun, SagaWrite } from '../../use-cases/saga-ports.ts';
import { audit } from './audit.ts';
import { lockStatement, makeContentStatements, removeClauses } from './content-repository.ts';
import { lockRun, RUN_COLUMNS, type RunColumns, toRun } from './run-repository.ts';

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

  const one = async <Row>(tenantId: string, text: string, values: readonly unknown[], before: Statement[] = []) => {
    const rows = await database.writeForTenant(tenantId, [...before, { text, values, name: nameOf(text) }]);
    return rows.at(-1)?.[0] as Row | undefined;
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
      const begin = () => one<RunColumns>(tenantId, text, values);
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
      const { tenantId, runId } = claim.run;
      const { text, values } = toWriteStatement(claim, write, content);
      const removing = stepsRemoved(claim, write);
      const before = [...new Set(removing.flatMap(({ sharing }) => sharing))].map((table): Statement => {
        const lock = lockStatement(table);
        const names = removing.filter(({ sharing }) => sharing.includes(table)).map(({ name }) => name);
        return { text: lock, values: [tenantId, runId, names], name: nameOf(lock) };
      });
      const uses = write.rows?.kind === 'make' ? write.rows.uses : undefined;
      if (uses) {
        const lock = content.lockOwner(uses.type);
        before.push({ text: lock, values: [tenantId, uses.id], name: nameOf(lock) });
      }
      const row = await one<{ held: boolean; removed: Record<string, Removed> | null; hidden: string | null }>(
        tenantId,
        text,
        values,
        before,
      ).catch((error: unknown) => {
        // What this step hangs its rows on has just gone with another run.
        throw codeOf(error) === FOREIGN_KEY_VIOLATION ? concurrentUpdate(error) : error;
      });
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

/** The steps whose rows a write removes, as the run's declaration has them. */
const stepsRemoved = ({ run }: SagaClaim, { rows }: SagaWrite) =>
  rows?.kind !== 'remove'
    ? []
    : rows.steps.map((name) => {
        const declared = run.declaration?.steps.find((step) => step.name === name);
        return { name, removes: declared?.removes ?? [], sharing: declared?.sharing ?? [] };
      });

/** The one statement of a write. */
function toWriteStatement(
  claim: SagaClaim,
  write: SagaWrite,
  content: ReturnType<typeof makeContentStatements>,
): Statement {
  const { run: before, token, version } = claim;
  const { after, rows, hold } = write;
  const { tenantId, runId } = before;
  const isRemoving = rows?.kind === 'remove';
  const changed = after.steps.find((step) => before.steps.some((known) => known.name === step.name && known !== step));
  const begun = after.steps.find((step) => !before.steps.some((known) => known.name === step.name));
  const isOver = isTerminal(after.state);
  const isEndOfCompensation = isOver && after.state !== 'COMPLETED';
  const values: unknown[] = [tenantId, runId, ...(rows?.kind === 'make' ? [rows.step] : [])];
  const bind = (value: unknown): string => `$${values.push(value)}`;

  const dueIn = hold.kind === 'renew' ? hold.leaseMs : hold.kind === 'release' ? hold.pauseMs : undefined;
  const lease = isOver
    ? 'due_at = null, claim_owner = null, finished_at = clock_timestamp(),'
    : dueIn === undefined
      ? ''
      : `due_at = clock_timestamp() + ${bind(dueIn)} * interval '1 ms', ${hold.kind === 'release' ? 'claim_owner = null,' : ''}`;
  const uses = rows?.kind === 'make' ? rows.uses : undefined;
  const began = after.state === 'COMPENSATING' && before.state !== after.state;
  const ctes = [
    ...(uses ? [content.hiddenOwner(uses.type, bind(uses.id))] : []),
    `held as (
       update workflow_runs
       set state = ${bind(after.state)}, current_step = ${bind(after.currentStep ?? null)},
           attempts = ${bind(after.attempts)}, error = ${bind(after.error ?? null)},
           parked_reason = ${bind(after.parkedReason ?? null)}, ${lease}
           ${after.output === before.output ? '' : `output = ${bind(JSON.stringify(after.output))}::jsonb,`}
           ${after.input === before.input ? '' : 'input = null,'} ${began ? 'compensating_at = clock_timestamp(),' : ''}
           version = version + 1, updated_at = clock_timestamp()
       where tenant_id = $1 and id = $2 and claim_token = ${bind(token)} and version = ${bind(version)}
         ${uses ? 'and not exists (select from hidden)' : ''} returning compensating_at)`,
  ];
  if (isRemoving) {
    const steps = stepsRemoved(claim, write);
    const undone = new Map(after.steps.map((step) => [step.name, step]));
    const wanted = steps.map(({ name, removes }) => ({
      name,
      own: Object.fromEntries(removes.map((table) => [table, 0])),
      removed: undone.get(name)?.removed ?? {},
      removals: undone.get(name)?.removals ?? [],
    }));
    ctes.push(
      `wanted as materialized (
         select name, own, removed, removals from jsonb_to_recordset(${bind(JSON.stringify(wanted))}::jsonb)
           as w (name text, own jsonb, removed jsonb, removals jsonb))`,
      ...removeClauses([...new Set(steps.flatMap(({ removes }) => removes))]),
      `undone as (
         select w.name, w.removed || c.counts as removed, w.removals || ${ownRemoval('c.counts')} as removals
         from wanted w left join tally t on t.step = w.name
           cross join lateral (select w.own || coalesce(t.counts, '{}') as counts) c)`,
      `step as (
         update workflow_run_steps s
         set state = 'COMPENSATED', compensated_at = clock_timestamp(), output = null, removed = u.removed,
             removals = u.removals
         from held, undone u
         where s.tenant_id = $1 and s.run_id = $2 and s.name = any(array(select name from wanted)) and s.name = u.name
         returning s.name, s.removed, s.removals)`,
    );
  }
  if (changed && !isRemoving) {
    // It may be large, and is written once: when its action has ended.
    const isKnown = before.steps.some(({ name, output }) => name === changed.name && output === changed.output);
    const output = isKnown ? '' : `output = ${bind(JSON.stringify(changed.output))}::jsonb,`;
    const hasEnded = changed.state === 'COMPLETED' || changed.state === 'FAILED';
    ctes.push(`step as (
       update workflow_run_steps s
       set ${output} ${hasEnded ? 'finished_at = clock_timestamp(),' : ''}
           state = ${bind(changed.state)}, attempts = ${bind(changed.attempts)}, error = ${bind(changed.error ?? null)}
       from held where s.tenant_id = $1 and s.run_id = $2 and s.name = ${rows?.kind === 'make' ? '$3' : bind(changed.name)}
       returning 1)`);
  }
  if (begun) {
    ctes.push(`begun as (
       insert into workflow_run_steps (tenant_id, run_id, name, position, state, participants, started_at)
       select $1, $2, ${bind(begun.name)}, ${bind(begun.position)}::int, ${bind(begun.state)},
              ${bind(begun.participants)}::text[], clock_timestamp() from held returning 1)`);
  }
  if (rows?.kind === 'make') {
    const making = content.insert(rows.effects, values.length + 1);
    values.push(...making.values);
    ctes.push(...making.ctes);
  }
  if (isEndOfCompensation) {
    const why = bind(after.parkedReason ?? after.error ?? null);
    const by = { actor: bind(after.actor), subject: bind(after.subject), trustEntry: bind(after.trustEntry ?? null) };
    const known = bind(JSON.stringify(sumRemoved(after.steps)));
    ctes.push(`audited as (
       insert into audit_entries (tenant_id, actor, subject, trust_entry, action, target_type, target_id, reason,
         outcome, counts)
       select $1, ${by.actor}, ${by.subject}, ${by.trustEntry}, 'compensation', 'run', $2::text, ${why}, ${bind(after.state)},
              (select coalesce(jsonb_object_agg(type, rows), '{}') from (${sumOf(known, isRemoving)}) summed)
       from held returning 1)`);
    if (after.state !== 'FAILED') {
      const removals = sumByParticipant(after.steps.flatMap(removalsOf));
      const own = removals.find(({ participant }) => participant === OWN_PARTICIPANT);
      const told = isRemoving ? removals.filter((removal) => removal !== own) : removals;
      const ownKnown = bind(JSON.stringify(toRemovedCounts(own ? [own] : [])));
      ctes.push(
        ...receiptClauses({
          id: bind(newId()),
          ...by,
          told: bind(JSON.stringify(told.map((removal, position) => ({ ...removal, position })))),
          own: isRemoving ? { position: told.length, sums: sumOf(ownKnown, true) } : undefined,
        }),
      );
    }
  }
  const removed = isRemoving
    ? `(select jsonb_object_agg(name, jsonb_build_object('removed', removed, 'removals', removals)) from step)`
    : 'null::jsonb';
  const hidden = uses ? '(select id from hidden)' : 'null::uuid';
  const text = `with ${ctes.join(',\n')}
    select exists (select from held) as held, ${removed} as removed, ${hidden} as hidden`;
  return { text, values };
}

/** What RunService itself removed, as a list of one Removal; `counts` is an object of counts by type. */
const ownRemoval = (counts: string): string =>
  `jsonb_build_array(jsonb_build_object('participant', '${OWN_PARTICIPANT}', 'counts', (
     select coalesce(jsonb_agg(jsonb_build_object('resourceType', key, 'found', value::bigint, 'deleted', value::bigint,
       'left', 0, 'bytes', 0)), '[]') from jsonb_each_text(${counts}) where value <> '0')))`;

/** Sums by type of what is known already, a parameter with an object of counts, and of what this statement removes. */
const sumOf = (known: string, isRemoving: boolean): string =>
  `select type, sum(rows) as rows
   from (select key as type, value::bigint as rows from jsonb_each_text(${known}::jsonb)
         ${isRemoving ? 'union all select type, rows from counted' : ''}) each
   group by type`;

/**
 * The receipt of a compensation that is finished, as a COMPLETE deletion; `$1` is the tenant and `$2` the run. It does not
 * repeat the run's error: who may list receipts also sees those of hidden runs, and receipts outlive their runs. What
 * participants removed was read back before; RunService's own rows went in the transaction that says so.
 */
const receiptClauses = (of: {
  id: string;
  actor: string;
  subject: string;
  trustEntry: string;
  /** Parts that are known, by participant. */
  told: string;
  /** RunService's own part, where this statement still adds to it. */
  own: { position: number; sums: string } | undefined;
}): string[] => [
  `receipt as (
     insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, trust_entry, fingerprint,
       next_attempt_at, created_at, started_at, updated_at, finished_at)
     select $1, ${of.id}::uuid, $2::uuid, 'COMPENSATION', 'COMPLETE', ${of.actor}, ${of.subject}, ${of.trustEntry}, '', null,
            coalesce(compensating_at, now.at), coalesce(compensating_at, now.at), now.at, now.at
     from held, (select clock_timestamp() as at) now returning id, finished_at)`,
  `receipt_steps as (
     insert into deletion_steps (tenant_id, deletion_id, position, participant, state, counts, verified_at)
     select $1, receipt.id, part.position, part.participant, 'COMPLETE', part.counts,
            case when part.participant <> '${OWN_PARTICIPANT}' then receipt.finished_at end
     from receipt, (
       select position, participant, counts
       from jsonb_to_recordset(${of.told}::jsonb) as told (position int, participant text, counts jsonb)
       ${of.own ? `union all select ${of.own.position}, '${OWN_PARTICIPANT}', ${countsOf(of.own.sums)}` : ''}) part
     returning 1)`,
];

/** Sums of rows by type that were all removed, as ResourceCounts. */
const countsOf = (sums: string): string =>
  `(select coalesce(jsonb_agg(jsonb_build_object('resourceType', type, 'found', rows, 'deleted', rows,
     'left', 0, 'bytes', 0) order by type), '[]') from (${sums}) summed where rows > 0)`;

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
