import { newId } from '#libs/kernel/id.ts';
import type { Statement } from '#libs/postgres/statement.ts';
import { OWN_PARTICIPANT } from '../../domain/deletion.ts';
import { isTerminal } from '../../domain/run.ts';
import { removalsOf, sumByParticipant, sumRemoved, toRemovedCounts } from '../../domain/saga.ts';
import type { Removed, SagaClaim, SagaWrite } from '../../use-cases/saga-ports.ts';
import { lockStatement, type makeContentStatements, removeClauses } from './content-repository.ts';

/** The steps whose rows a write removes, as the run's declaration has them. */
const stepsRemoved = ({ run }: SagaClaim, { rows }: SagaWrite) =>
  rows?.kind !== 'remove'
    ? []
    : rows.steps.map((name) => {
        const declared = run.declaration?.steps.find((step) => step.name === name);
        return { name, removes: declared?.removes ?? [], sharing: declared?.sharing ?? [] };
      });

/** What the last statement of a write answers. */
export interface Written {
  /** Whether the claim still held; nothing was written otherwise. */
  readonly held: boolean;
  /** By step, what its compensation removed in all. */
  readonly removed: Record<string, Removed> | null;
  /** The hidden run whose row the step uses; nothing was written then. */
  readonly hidden: string | null;
}

/**
 * A write as statements of one transaction: locks first, each of them a statement of its own so that the last one sees
 * what was committed while it waited, and then one that writes all, or nothing where the claim does not hold any more.
 */
export function toWriteStatements(
  claim: SagaClaim,
  write: SagaWrite,
  content: ReturnType<typeof makeContentStatements>,
): readonly Statement[] {
  const { tenantId, runId } = claim.run;
  const removing = stepsRemoved(claim, write);
  const locks = [...new Set(removing.flatMap(({ sharing }) => sharing))].map((table): Statement => {
    const names = removing.filter(({ sharing }) => sharing.includes(table)).map(({ name }) => name);
    return { text: lockStatement(table), values: [tenantId, runId, names] };
  });
  const uses = write.rows?.kind === 'make' ? write.rows.uses : undefined;
  if (uses) locks.push({ text: content.lockOwner(uses.type), values: [tenantId, uses.id] });
  return [...locks, toWriteStatement(claim, write, content)];
}

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
    // Of a step that nobody else held anything of, `removed` says all.
    const isShared = wanted.some(({ removals }) => removals.length > 0);
    const counts = `w.own || coalesce(t.counts, '{}')`;
    ctes.push(
      `wanted as materialized (
         select name, own, removed, removals from jsonb_to_recordset(${bind(JSON.stringify(wanted))}::jsonb)
           as w (name text, own jsonb, removed jsonb, removals jsonb))`,
      ...removeClauses([...new Set(steps.flatMap(({ removes }) => removes))]),
      `step as (
         update workflow_run_steps s
         set state = 'COMPENSATED', compensated_at = clock_timestamp(), output = null, removed = w.removed || ${counts}
             ${isShared ? `, removals = w.removals || ${ownRemoval(counts)}` : ''}
         from held, wanted w left join tally t on t.step = w.name
         where s.tenant_id = $1 and s.run_id = $2 and s.name = any(array(select name from wanted)) and s.name = w.name
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
      const ownSums = (): string => sumOf(bind(JSON.stringify(toRemovedCounts(own ? [own] : []))), true);
      ctes.push(
        ...receiptClauses({
          id: bind(newId()),
          ...by,
          told: bind(JSON.stringify(told.map((removal, position) => ({ ...removal, position })))),
          own: isRemoving ? { position: told.length, sums: ownSums() } : undefined,
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
