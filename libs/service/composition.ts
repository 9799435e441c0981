import 'reflect-metadata';
import { Container, type ServiceIdentifier } from 'inversify';

/** Stands for something that a service is composed of, before it is made. */
export type Token<T> = ServiceIdentifier<T>;

type Tokens<T> = { readonly [Key in keyof T]: Token<T[Key]> };

/** What a service is composed of. Each thing is made once, when it is first needed, of those that it names. */
export interface Composition {
  /** Something that is there already. */
  given<T>(value: T): Token<T>;
  /** Something made of others, in this order. */
  made<Others extends readonly unknown[], T>(make: (...others: Others) => T, others: Tokens<Others>): Token<T>;
  /** Something made of others by their names. */
  madeOf<Others extends object, T>(make: (others: Others) => T, others: Tokens<Others>): Token<T>;
  get<T>(token: Token<T>): T;
}

/** Makes an empty one. */
export function makeComposition(): Composition {
  const container = new Container({ defaultScope: 'Singleton' });
  const bind = <T>(name: string, make: unknown, others: readonly unknown[]): Token<T> => {
    const token: Token<T> = Symbol(name);
    container.bind(token).toResolvedValue(make as () => T, others as []);
    return token;
  };
  return {
    given(value) {
      const token: Token<typeof value> = Symbol('given');
      container.bind(token).toConstantValue(value);
      return token;
    },
    made: (make, others) => bind(make.name, make, others),
    madeOf(make, others) {
      const names = Object.keys(others);
      const makeOf = (...values: unknown[]) =>
        make(Object.fromEntries(names.map((name, index) => [name, values[index]])) as Parameters<typeof make>[0]);
      return bind(make.name, makeOf, Object.values(others));
    },
    get: (token) => container.get(token),
  };
}
