/** The stop switch: while it is on, nothing is purged by age anywhere. */
export interface PurgeStop {
  readonly isStopped: boolean;
  /** How often it was switched; 0: never. */
  readonly version: number;
  /** Who switched it last, when and why; undefined: nobody ever has. */
  readonly last: { readonly actor: string; readonly reason: string; readonly at: Temporal.Instant } | undefined;
}
