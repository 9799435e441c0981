import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction, secureTable } from '#libs/postgres/tenant-security.ts';

const CONTENT_TABLES = [
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
];

/** What every row of an effect says of itself: without run and step it belongs to no run, and none removes it. */
const provenance = `
        tenant_id text not null,
        id uuid not null,
        run_id uuid,
        step text,
        created_at timestamptz not null default clock_timestamp(),
        primary key (tenant_id, id)`;

/**
 * Runs that Lethe does itself: their ledger, what they began with, when they are due, and the ten tables of
 * client_to_delivery.
 */
export const saga: Migration = {
  name: '003-saga',
  locks: { workflow_run_steps: 'all', workflow_runs: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      -- What runs began with, by its digest: it belongs to no tenant, and is never changed.
      create table workflow_declarations (
        digest text primary key,
        declaration jsonb not null,
        created_at timestamptz not null default now()
      );

      drop index workflow_runs_claimable;
      alter table workflow_runs
        add column driver text not null default 'CALLER' check (driver in ('ENGINE', 'CALLER')),
        add column declaration text references workflow_declarations,
        add column ending text not null default 'COMPENSATED' check (ending in ('COMPENSATED', 'CANCELLED')),
        add column attempts int not null default 0,
        add column parked_reason text,
        -- On whose behalf workers go on with it.
        add column actor text not null default 'service:run',
        -- When a worker may take it up: while somebody has it, when the lease runs out. Null: nobody ever.
        add column due_at timestamptz,
        drop column claim_expires_at;
      create index workflow_runs_due on workflow_runs (due_at) where due_at is not null;
      create index workflow_runs_declaration on workflow_runs (declaration) where declaration is not null;
      -- A run is written at every step: the room lets its new version stay on its page.
      alter table workflow_runs set (fillfactor = 60);

      alter table workflow_run_steps
        add column output jsonb,
        add column removed jsonb not null default '{}',
        add column compensated_at timestamptz;
      alter table workflow_run_steps set (fillfactor = 70);

      create table onboarding_brief (${provenance},
        client text not null,
        product text not null,
        audience text not null,
        tone text not null,
        goals jsonb not null,
        channels jsonb not null
      );
      create table onboarding_intake (${provenance},
        brief_id uuid not null,
        summary text not null,
        foreign key (tenant_id, brief_id) references onboarding_brief
      );
      create table strategy_document (${provenance},
        brief_id uuid not null,
        title text not null,
        body text not null,
        foreign key (tenant_id, brief_id) references onboarding_brief
      );
      create table production_drafts (${provenance},
        strategy_id uuid not null,
        title text not null,
        body text not null,
        foreign key (tenant_id, strategy_id) references strategy_document
      );
      create table production_bundles (${provenance},
        draft_id uuid not null,
        job_id uuid,
        foreign key (tenant_id, draft_id) references production_drafts
      );
      create table production_bundle_assets (${provenance},
        bundle_id uuid not null,
        channel text not null,
        headline text not null,
        copy text not null,
        foreign key (tenant_id, bundle_id) references production_bundles
      );
      create table qc_results (${provenance},
        draft_id uuid not null,
        passed boolean not null,
        score int not null,
        foreign key (tenant_id, draft_id) references production_drafts
      );
      create table qc_issues (${provenance},
        result_id uuid not null,
        rule text not null,
        severity text not null,
        message text not null,
        foreign key (tenant_id, result_id) references qc_results
      );
      create table delivery_packages (${provenance},
        draft_id uuid not null,
        name text not null,
        file_count int not null,
        foreign key (tenant_id, draft_id) references production_drafts
      );
      create table delivery_artifacts (${provenance},
        package_id uuid not null,
        name text not null,
        content text not null,
        bytes int not null,
        digest text not null,
        foreign key (tenant_id, package_id) references delivery_packages
      );

      create index onboarding_intake_parent on onboarding_intake (tenant_id, brief_id);
      create index strategy_document_parent on strategy_document (tenant_id, brief_id);
      create index production_drafts_parent on production_drafts (tenant_id, strategy_id);
      create index production_bundles_parent on production_bundles (tenant_id, draft_id);
      create index production_bundle_assets_parent on production_bundle_assets (tenant_id, bundle_id);
      create index qc_results_parent on qc_results (tenant_id, draft_id);
      create index qc_issues_parent on qc_issues (tenant_id, result_id);
      create index delivery_packages_parent on delivery_packages (tenant_id, draft_id);
      create index delivery_artifacts_parent on delivery_artifacts (tenant_id, package_id);

      -- A brief on which other runs hang is passed on to one of them instead of being deleted, whoever deletes it. The
      -- delete holds the brief's lock, which waits for intakes on their way; the heir's lock waits for those that go.
      create function pass_on_shared_brief() returns trigger language plpgsql as $$
      declare heir record;
      begin
        select run_id, step into heir from onboarding_intake
          where tenant_id = old.tenant_id and brief_id = old.id and run_id is distinct from old.run_id
          order by id limit 1 for update;
        if not found then return old; end if;
        update onboarding_brief set run_id = heir.run_id, step = heir.step
          where tenant_id = old.tenant_id and id = old.id;
        return null;
      end $$;
      create trigger pass_on_shared_brief before delete on onboarding_brief
        for each row execute function pass_on_shared_brief();
    `);
    for (const table of CONTENT_TABLES) {
      await knex.raw('create index ?? on ?? (tenant_id, run_id, step)', [`${table}_provenance`, table]);
      await secureTable(knex, table, appRole);
    }
    await knex.raw('grant select, insert on workflow_declarations to ??', [appRole]);
    await createDiscoveryFunction(knex, {
      signature: 'due_runs(max_rows int)',
      returns: 'table (tenant_id text, id uuid)',
      query: `select r.tenant_id, r.id from workflow_runs r
              where r.due_at <= now() order by r.due_at limit max_rows`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function due_runs(int)');
    for (const table of CONTENT_TABLES.toReversed()) await knex.raw('drop table ??', [table]);
    await knex.raw(`
      drop function pass_on_shared_brief();
      alter table workflow_run_steps drop column output, drop column removed, drop column compensated_at;
      alter table workflow_run_steps reset (fillfactor);
      drop index workflow_runs_due;
      drop index workflow_runs_declaration;
      alter table workflow_runs
        drop column driver, drop column declaration, drop column ending, drop column attempts,
        drop column parked_reason, drop column actor, drop column due_at, add column claim_expires_at timestamptz;
      alter table workflow_runs reset (fillfactor);
      drop table workflow_declarations;
      create index workflow_runs_claimable on workflow_runs (state, claim_expires_at)
        where state in ('RUNNING', 'COMPENSATING');
    `);
  },
};
