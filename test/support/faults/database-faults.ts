import pg from 'pg';
import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import { type Expected, type Fault, GOOD } from './fault.ts';
import type { Ground } from './ground.ts';

/** The table of each service that its read and its write are about. */
const TABLE: Readonly<Record<ServiceName, string>> = {
  run: 'workflow_runs',
  job: 'jobs',
  incident: 'environments',
  retention: 'execution_retention_policies',
};

const inEach = (text: (name: ServiceName) => string) => (ground: Ground) =>
  Promise.all(SERVICE_NAMES.map((name) => ground.sql(name, text(name))));

const endSessions = ({ sql }: Ground) =>
  sql('run', "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'lethe-%'");

const inTurn =
  (...steps: readonly ((ground: Ground) => Promise<unknown>)[]) =>
  async (ground: Ground): Promise<void> => {
    for (const step of steps) await step(ground);
  };

const open = async ({ openAll }: Ground): Promise<void> => openAll();

/** Every row that is written ends as this does. */
const onWrite = (body: string) => ({
  apply: inEach(
    (name) => `create function at_fault() returns trigger language plpgsql as $$ begin ${body}; return new; end $$;
               create trigger at_fault before insert or update on ${TABLE[name]} execute function at_fault()`,
  ),
  undo: inEach((name) => `drop trigger at_fault on ${TABLE[name]}; drop function at_fault()`),
});

/** One session in each database holds the table for itself. */
function lockedTables(): Pick<Fault, 'apply' | 'undo'> {
  const holders: pg.Client[] = [];
  return {
    apply: ({ stack }) =>
      Promise.all(
        SERVICE_NAMES.map(async (name) => {
          const holder = new pg.Client(stack.superuserUrl(name));
          holders.push(holder);
          await holder.connect();
          await holder.query('begin');
          await holder.query(`lock table ${TABLE[name]} in access exclusive mode`);
        }),
      ),
    undo: () => Promise.all(holders.splice(0).map((holder) => holder.end())),
  };
}

/** No call is served, and why is told. */
const away = (fault: string): Expected => ({
  read: `UNAVAILABLE ${fault}`,
  write: `UNAVAILABLE ${fault}`,
  ready: [503, 'database', `(${fault})`],
  metric: ['part down', 'database'],
});

/** Only writes are refused. */
const writesRefused = (fault: string): Expected => ({ ...away(fault), read: 'answers' });

const OTHER_DEFAULTS = {
  datestyle: "'SQL, DMY'",
  intervalstyle: 'sql_standard',
  timezone: "'Asia/Kolkata'",
  bytea_output: 'escape',
  search_path: 'nowhere',
  default_transaction_isolation: 'serializable',
  standard_conforming_strings: 'off',
};

/** What befalls the databases of all services. */
export const DATABASE_FAULTS: readonly Fault[] = [
  {
    name: 'it is read-only',
    on: 'database',
    apply: inTurn(
      inEach((name) => `alter role lethe_${name}_app set default_transaction_read_only = on`),
      endSessions,
    ),
    // The sessions that were made meanwhile stay read-only.
    undo: inEach((name) => `alter role lethe_${name}_app reset default_transaction_read_only`),
    all: writesRefused('READ_ONLY'),
    watch: 'may end',
  },
  {
    name: 'it is silent: packets are lost',
    on: 'database',
    apply: async ({ database }) => database.swallow(),
    undo: open,
    all: away('SILENT'),
    watch: 'may end',
  },
  {
    name: 'it refuses connections',
    on: 'database',
    apply: async ({ database }) => database.refuse(),
    undo: open,
    all: away('CONNECTION_LOST'),
    watch: 'may end',
  },
  {
    name: 'connections are reset',
    on: 'database',
    apply: async ({ database }) => database.shut(),
    undo: open,
    all: away('CONNECTION_LOST'),
    watch: 'may end',
  },
  {
    name: 'it is slow: 150 ms more each way',
    on: 'database',
    apply: async ({ database }) => database.slow(150),
    undo: open,
    all: GOOD,
    watch: 'goes on',
  },
  {
    name: 'connections are half-open: the other end has forgotten them',
    on: 'database',
    apply: async (ground) => {
      ground.database.swallow();
      ground.openAll();
    },
    undo: open,
    all: GOOD,
    watch: 'may end',
  },
  {
    name: 'one session of each service is ended',
    on: 'database',
    apply: inEach(
      (name) =>
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lethe-${name}' limit 1`,
    ),
    undo: open,
    all: GOOD,
    watch: 'may end',
  },
  {
    name: 'all sessions are ended, ten times in a second',
    on: 'database',
    async apply(ground) {
      for (let times = 0; times < 10; times += 1) {
        await endSessions(ground);
        await Promise.all(SERVICE_NAMES.map((name) => ground.probes[name].read().catch(() => undefined)));
      }
    },
    undo: open,
    all: GOOD,
    watch: 'may end',
  },
  {
    name: 'it is shut down, and started again',
    on: 'database',
    apply: ({ stack }) => stack.stopDatabase(),
    undo: ({ stack }) => stack.startDatabase(),
    all: away('CONNECTION_LOST'),
    watch: 'may end',
  },
  {
    name: 'it has no connection left for the role',
    on: 'database',
    apply: inTurn(
      inEach((name) => `alter role lethe_${name}_app connection limit 0`),
      endSessions,
    ),
    undo: inEach((name) => `alter role lethe_${name}_app connection limit -1`),
    all: away('TOO_MANY_CONNECTIONS'),
    watch: 'may end',
  },
  {
    name: 'the password is refused',
    on: 'database',
    apply: inTurn(
      inEach((name) => `alter role lethe_${name}_app valid until '2000-01-01'`),
      endSessions,
    ),
    undo: inEach((name) => `alter role lethe_${name}_app valid until 'infinity'`),
    all: away('REFUSED'),
    watch: 'may end',
  },
  {
    name: 'the name of its host is gone',
    on: 'database',
    apply: inTurn(({ nameDatabase }) => nameDatabase(false), endSessions),
    undo: ({ nameDatabase }) => nameDatabase(true),
    all: away('CONNECTION_LOST'),
    watch: 'may end',
  },
  {
    name: 'a table is locked for longer than the lock timeout',
    on: 'database',
    ...lockedTables(),
    all: {
      read: 'ABORTED CONCURRENT_UPDATE',
      write: 'ABORTED CONCURRENT_UPDATE',
      ready: 'ok',
      metric: ['calls ended with', '10'],
    },
    watch: 'may end',
  },
  {
    name: 'statements take longer than their timeout',
    on: 'database',
    ...onWrite('perform pg_sleep(5)'),
    all: {
      read: 'answers',
      write: 'UNAVAILABLE DEPENDENCY_UNAVAILABLE',
      ready: 'ok',
      metric: ['calls ended with', '14'],
    },
    watch: 'goes on',
  },
  {
    name: 'the disk is full',
    on: 'database',
    ...onWrite("raise exception 'could not extend file' using errcode = '53100'"),
    all: writesRefused('DISK_FULL'),
    watch: 'may end',
  },
  {
    name: 'it is out of memory',
    on: 'database',
    ...onWrite("raise exception 'out of memory' using errcode = '53200'"),
    all: writesRefused('OUT_OF_RESOURCES'),
    watch: 'may end',
  },
  {
    name: 'the defaults of new sessions are all different',
    on: 'database',
    apply: inTurn(
      inEach((name) =>
        Object.entries(OTHER_DEFAULTS)
          .map(([setting, value]) => `alter database lethe_${name} set ${setting} = ${value}`)
          .join('; '),
      ),
      endSessions,
    ),
    undo: inTurn(
      inEach((name) =>
        Object.keys(OTHER_DEFAULTS)
          .map((setting) => `alter database lethe_${name} reset ${setting}`)
          .join('; '),
      ),
      endSessions,
    ),
    all: GOOD,
    watch: 'may end',
  },
  {
    name: 'the schema is gone',
    on: 'schema',
    apply: inEach(() => 'alter schema public rename to gone'),
    undo: inEach(() => 'alter schema gone rename to public'),
    all: {
      read: 'UNAVAILABLE SCHEMA',
      write: 'UNAVAILABLE SCHEMA',
      ready: [503, 'schema', 'It cannot be read'],
      metric: ['part down', 'schema'],
    },
    watch: 'may end',
  },
  {
    name: 'the rights to it were taken away',
    on: 'schema',
    apply: inEach((name) => `revoke usage on schema public from lethe_${name}_app, public`),
    undo: inEach((name) => `grant usage on schema public to lethe_${name}_app, public`),
    all: {
      read: 'UNAVAILABLE SCHEMA',
      write: 'UNAVAILABLE SCHEMA',
      ready: [503, 'schema', 'It cannot be read'],
      metric: ['part down', 'schema'],
    },
    watch: 'may end',
  },
  {
    name: 'the table of its migrations is gone',
    on: 'schema',
    apply: inEach(() => 'alter table public.lethe_migrations rename to gone'),
    undo: inEach(() => 'alter table public.gone rename to lethe_migrations'),
    all: { ...GOOD, ready: [503, 'schema', 'It cannot be read'], metric: ['part down', 'schema'] },
    watch: 'goes on',
  },
];
