/** The fields that are not undefined, such as the options that were given: what a request then holds. */
export const defined = <T extends object>(fields: T) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    readonly [Field in keyof T]?: Exclude<T[Field], undefined>;
  };
