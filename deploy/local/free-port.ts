import { platform } from 'node:os';
import getPort, { portNumbers } from 'get-port';
import { holdName } from './hold-name.ts';

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
 * A port of this machine on which nobody listens, and which no outgoing connection takes before its server is there. On
 * Linux it is reserved until this process ends, so that no other process that asks here gets it in between; elsewhere
 * the search only begins anywhere, so that two processes hardly ever find the same.
 */
export async function freePort({ wanted, exclude = [] }: PortChoice = {}): Promise<number> {
  const refused = new Set(exclude);
  for (;;) {
    const from = FIRST + Math.floor(Math.random() * (LAST - TRIED - FIRST));
    const candidates = [...(wanted === undefined ? [] : [wanted]), ...portNumbers(from, from + TRIED)];
    const port = await getPort({ port: candidates, exclude: refused });
    if (await reserve(port)) return port;
    refused.add(port);
  }
}

const reserved = new Set<number>();

/** Answers whether the port is this process's now. */
async function reserve(port: number): Promise<boolean> {
  if (platform() !== 'linux' || reserved.has(port)) return true;
  if (!(await holdName(`port-${port}`))) return false;
  reserved.add(port);
  return true;
}
