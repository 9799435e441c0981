import type { CheckState } from '#gen/lethe/status/v1/status_service_pb.ts';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import { bindService, type ServiceBinding } from '#libs/grpc/connect-handlers.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { compareSchema, type Migration } from '#libs/postgres/migrate.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { listOldestWork } from './oldest-work.ts';
import { listParkedWork } from './parked-work.ts';
import { VERSION } from './version.ts';

/** One thing that a service looked at, as lethe.status.v1.StatusCheck says it. */
export interface ServiceCheck {
  /** UPPER_SNAKE and stable. */
  readonly name: string;
  readonly state: CheckState;
  readonly message: string;
  /** What to do; empty where nothing is to be done. */
  readonly advice: string;
}

/** What a service tells about itself. */
export interface StatusOptions {
  readonly service: string;
  readonly database: Database;
  readonly migrations: readonly Migration[];
  /** What else the service looks at; it must not throw. */
  readonly checks: () => Promise<readonly ServiceCheck[]>;
  /** Whether the schema has what `createParkedWork` and `createOldestWork` make; otherwise no work waits there. */
  readonly hasWork: boolean;
}

/** Serves lethe.status.v1.StatusService, also while the database does not answer. */
export const bindStatus = ({ service, database, migrations, checks, hasWork }: StatusOptions): ServiceBinding =>
  bindService(StatusService, {
    listParkedWork: listParkedWork(hasWork ? database : undefined),
    listOldestWork: listOldestWork(hasWork ? database : undefined),
    async getStatus() {
      const [stored, found] = await Promise.all([readDatabase(database, migrations), checks()]);
      return {
        service,
        version: VERSION,
        // At the end, so that it is compared with the moment of the answer.
        serviceTime: toTimestamp(Temporal.Now.instant()),
        ...stored,
        checks: found.map((check) => ({ ...check })),
      };
    },
  });

async function readDatabase(database: Database, migrations: readonly Migration[]) {
  try {
    const { missing, unknown } = await compareSchema(database.acrossTenants, migrations);
    const [row] = await database.acrossTenants<{ now: Temporal.Instant }>({
      text: 'select clock_timestamp() as now',
      values: [],
    });
    const time = row ? { databaseTime: toTimestamp(row.now) } : {};
    return { ...time, missingMigrations: missing, unknownMigrations: unknown };
  } catch {
    // An absent database_time says so.
    return {};
  }
}
