import getPort, { portNumbers } from 'get-port';

// Below those that systems hand out for outgoing connections: from 32768 on Linux, from 49152 elsewhere.
const FIRST = 10_000;
const LAST = 32_000;
const TRIED = 500;

/** Which port to choose. */
export interface PortChoice {
  /** This one if it is free. */
  readonly wanted?: number;
  readonly exclude?: Iterable<number>;
}

/**
 * A port of this machine on which nobody listens, and which no outgoing connection takes before its server is there.
 * The search begins anywhere, so that processes that search at the same time hardly ever find the same.
 */
export function freePort({ wanted, exclude = [] }: PortChoice = {}): Promise<number> {
  const from = FIRST + Math.floor(Math.random() * (LAST - TRIED - FIRST));
  const candidates = [...(wanted === undefined ? [] : [wanted]), ...portNumbers(from, from + TRIED)];
  return getPort({ port: candidates, exclude });
}
