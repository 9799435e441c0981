import type { ServiceName } from '#deploy/local/stack.ts';
import type { Ground } from './ground.ts';

/** What shows of a fault in one service while it lasts. */
export interface Expected {
  /** How a call ends, as `outcomeOf` tells it. In the moment in which a fault begins, another may be tried in vain. */
  readonly read: string;
  readonly write: string;
  /** `ok`, or the status of `/ready`, the line that turns, and what it then says. */
  readonly ready: 'ok' | readonly [status: 200 | 503, part: string, says: string];
  /** The part whose `lethe_part_up` is 0, or the status code of which `lethe_rpc_duration_seconds` counts more. */
  readonly metric: 'none' | readonly ['part down', string] | readonly ['calls ended with', string];
}

/** Something that goes wrong below or between the services. */
export interface Fault {
  readonly name: string;
  /** What it befalls. */
  readonly on: 'database' | 'schema' | 'object store' | 'network' | 'process' | 'clock and keys';
  apply(ground: Ground): Promise<unknown>;
  undo(ground: Ground): Promise<unknown>;
  /** What shows in every service, and how some differ. */
  readonly all: Expected;
  readonly of?: Partial<Readonly<Record<ServiceName, Partial<Expected>>>>;
  /** A watch that was begun before it. `may end`: as UNAVAILABLE, and is begun again. */
  readonly watch: 'goes on' | 'may end';
  /** Why work that meets it is parked until a person redrives it; absent: it waits and ends by itself. */
  readonly parks?: string;
  /** Services that it ends, or starts anew. */
  readonly restarts?: readonly ServiceName[];
  /** What it needs that npm cannot bring. */
  readonly needs?: "Ceph's gateway";
}

/** Nothing shows: every call is answered. */
export const GOOD: Expected = { read: 'answers', write: 'answers', ready: 'ok', metric: 'none' };
