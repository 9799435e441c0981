import dns, { type LookupOptions } from 'node:dns';
import { existsSync } from 'node:fs';

// Preloaded into a service (`node --import`), this makes its clock wrong by FAULT_CLOCK_MS, and the name of its database
// be known only while the file FAULT_NAME_FILE is there. The machine's own stay as they are.

/** The name by which a service knows its database; 127.0.0.1 where it is known. */
export const DATABASE_NAME = 'database.lethe.test';

const { FAULT_CLOCK_MS: clockMs, FAULT_NAME_FILE: nameFile } = process.env;

if (clockMs !== undefined) {
  const aheadMs = Number(clockMs);
  const RealDate = Date;
  const now = (): number => RealDate.now() + aheadMs;
  const realInstant = Temporal.Now.instant.bind(Temporal.Now);
  globalThis.Date = new Proxy(RealDate, {
    construct: (target, args, self) => Reflect.construct(target, args.length === 0 ? [now()] : args, self),
    get: (target, key, self) => (key === 'now' ? now : Reflect.get(target, key, self)),
  });
  Temporal.Now.instant = () => realInstant().add({ milliseconds: aheadMs });
}

if (nameFile !== undefined) {
  const lookUp = dns.lookup as (name: string, options: LookupOptions, callback: (...answer: unknown[]) => void) => void;
  const lookUpOurs: typeof lookUp = (name, options, callback) => {
    if (name !== DATABASE_NAME) return lookUp(name, options, callback);
    if (existsSync(nameFile)) return lookUp('127.0.0.1', options, callback);
    const error = new Error(`getaddrinfo ENOTFOUND ${name}`);
    callback(Object.assign(error, { code: 'ENOTFOUND', syscall: 'getaddrinfo', hostname: name }));
  };
  dns.lookup = lookUpOurs as typeof dns.lookup;
}
