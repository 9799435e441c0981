/** A benchmark: what it measured, by name. Ratios are of figures from the same run. */
export type Bench = () => Promise<Readonly<Record<string, number>>>;
