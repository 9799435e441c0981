/** One kind of thing that is counted: a colour of the chart and a column of the table. */
export interface BarSeries {
  readonly key: string;
  readonly label: string;
  /** Any CSS colour. */
  readonly color: string;
}

/** The counts of one day by series; what is missing is 0. */
export interface BarDay {
  /** YYYY-MM-DD, in UTC. */
  readonly day: string;
  readonly counts: Readonly<Record<string, number>>;
}
