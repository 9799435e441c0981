import type { Database } from '#libs/postgres/open-database.ts';
import type { ArtifactKind } from '../../domain/artifact.ts';
import type { Installation } from '../../use-cases/ports.ts';

/** The installation's name in Postgres. */
export const makeInstallation = (database: Database): Installation => ({
  async read() {
    const [row] = await database.acrossTenants<{ id: string; marked: boolean }>({
      text: 'select id, marked_at is not null as marked from installation',
      values: [],
    });
    if (!row) throw new Error('the database names no installation');
    return { id: row.id, isMarked: row.marked };
  },

  async setMarked() {
    await database.acrossTenants({
      text: 'update installation set marked_at = clock_timestamp() where marked_at is null',
      values: [],
    });
  },

  async someStored(limit) {
    const rows = await database.acrossTenants<{
      tenant_id: string;
      job_id: string;
      kind: ArtifactKind;
      name: string;
      object_id: string | null;
    }>({ text: 'select * from some_stored_artifacts($1)', values: [limit] });
    return rows.map((row) => ({
      tenantId: row.tenant_id,
      object: { jobId: row.job_id, kind: row.kind, name: row.name, objectId: row.object_id ?? undefined },
    }));
  },
});
