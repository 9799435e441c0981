/**
 * One item of a bulk deletion, as the worker that holds the bulk deletion names it to whoever orders the item's deletion.
 * The order commits only while that worker still holds it and nobody has cancelled it.
 */
export interface BulkItem {
  readonly bulkDeletionId: string;
  readonly position: number;
  /** The fencing token of the worker's lease. */
  readonly token: bigint;
}
