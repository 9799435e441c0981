/** A message's field where there is a value, and no field otherwise. */
export const optional = <K extends string, V>(key: K, value: V | undefined): Partial<Record<K, V>> =>
  value === undefined ? {} : ({ [key]: value } as Partial<Record<K, V>>);

/** A count as a message has it, and nothing for nothing. */
export const toOptionalBigInt = (count: number | undefined): bigint | undefined =>
  count === undefined ? undefined : BigInt(count);
