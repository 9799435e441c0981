/** One more column of a row's key, and its type in Postgres. */
export interface KeyColumn {
  readonly column: string;
  readonly type: 'uuid' | 'text' | 'bigint' | 'timestamptz';
}

/** What goes with a row and is counted beside it. */
export interface Dependent {
  /** What ResourceCount calls one of them, as `drift_check_workflow`. */
  readonly type: string;
  /** The name of the query in `remove` that returns one row for each that went. */
  readonly query: string;
}

/**
 * One kind of rows that age, described in SQL for libs/owner, which does the rest: see makeOwner. The texts are trusted
 * and go into statements as they stand. `r` is the table's alias in all of them. Bindings are written `:name`, and casts
 * `cast(x as type)`.
 *
 * Rows are ordered by (age, key), which must be unique within a tenant. The table must have an index on (tenant, age,
 * key) without a predicate but `only`. All statements run as the app role, under row-level security, where coalesce()
 * and most other functions never become index conditions: the age must be a column, stored where it is computed.
 */
export interface OwnedSubject {
  /** Unique among all owners of an installation: 1 to 48 of a-z, 0-9 and `_`, beginning with a letter. */
  readonly name: string;
  /** What ResourceCount calls one of its rows, as `drift_check`. */
  readonly resourceType: string;
  /** Where a row's age comes from, for people, as `drift_checks.checked_at`. */
  readonly ageOf: string;
  readonly dependents?: readonly Dependent[];
  /** Whether the newest rows can be kept whatever their age: Rule.min_to_keep. */
  readonly hasFloor?: boolean;
  readonly table: string;
  /** The column of the tenant; `tenant_id` by default. */
  readonly tenant?: string;
  /** The tenant as a value of that column, an expression of `:tenantId` alone; `:tenantId` by default. */
  readonly tenantValue?: string;
  /** The column of the instant that a row's age counts from. Null: the row is never expired, and is counted. */
  readonly age: string;
  /** The columns that, with tenant and age, tell rows apart and order them: mostly the id. Not null. */
  readonly key: readonly KeyColumn[];
  /** Whether that index has its nulls first when it is read oldest first. Absent: last, as Postgres does by default. */
  readonly nullsFirst?: boolean;
  /** A predicate on `r`: which rows of the table belong to the subject. It may be that of a partial index. */
  readonly only?: string;
  /**
   * A predicate on `r`, never null: rows that have not finished. They stay until they have been expired for
   * Rule.stale_after_days, or for ever without that. It is evaluated for each row, not looked up.
   */
  readonly unfinished?: string;
  /** Statements that run in the transaction before each batch, each with `:tenantId` alone: locks that others respect. */
  readonly lock?: readonly string[];
  /**
   * What `remove` and what follows from it search for names without a schema: the triggers of a table that others have
   * made, deferred ones included. Absent: what the connection searches.
   */
  readonly searchPath?: string;
  /**
   * Queries, separated by commas as in a WITH, that remove the rows of `chosen`, in the batch's transaction. `chosen`
   * has the columns `age` and the key's, by their names, and at most as many rows as may go. Bindings: `:tenantId`,
   * `:cutoff`, and `:stale`, null or the cutoff of unfinished rows.
   *
   * One of them must be called `gone` and return one row for each row of the subject that it removed, and nothing else.
   * Each must have a tenant predicate, and judge again by age what another transaction may have changed meanwhile.
   * Where rows of other tables are changed as well, they must be locked in an order that every writer keeps.
   */
  readonly remove: string;
  /**
   * Only without dependents, and where nothing but `unfinished` keeps an expired row: batches that are not short of
   * rows are then one DELETE of a range, which costs half as much as choosing rows. The statement runs after it where
   * something went, with `:tenantId` and the last position of the range: its age `:last`, its key `:last0`, `:last1`, …
   */
  readonly afterRange?: string;
}

/** What may go, as the contract's Rule says. */
export interface OwnerRule {
  readonly retentionDays: number;
  /** Undefined: the database's now less the window. */
  readonly cutoff: Temporal.Instant | undefined;
  /** By the caller's clock. */
  readonly latestCutoff: Temporal.Instant;
  readonly minToKeep: number;
  readonly maxRows: number | undefined;
  readonly staleAfterDays: number | undefined;
}

/** Where a row stands in the order of its subject: age and key as Postgres prints them. */
export type Position = readonly string[];
