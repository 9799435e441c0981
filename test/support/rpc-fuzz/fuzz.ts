import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type DescMethod, type DescService, fromBinary } from '@bufbuild/protobuf';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { StatusSchema } from '#gen/google/rpc/status_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import { makeRandom, shuffle } from '#test/support/random.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import { type ChooseCaller, type FuzzCaller, makeCallers } from './callers.ts';
import { type KnownValues, makeKnownValues } from './known-values.ts';
import { INSPECTED, liveHeapBytes } from './live-heap.ts';
import { chooseMood, type Mood, makeRequest, withPageToken } from './make-request.ts';

/** Something that no request may bring about. */
export interface Finding {
  readonly problem: string;
  readonly call: number;
  /** `service package.Service/Method`. */
  readonly rpc: string;
  readonly caller: string;
  readonly mood: Mood;
  /** The message, or all messages of a client's stream, as base64. */
  readonly request: readonly string[];
}

/** What came of the calls. */
export interface FuzzReport {
  readonly findings: readonly Finding[];
  /** What the services logged that speaks of a defect. */
  readonly logged: readonly string[];
  /** How many calls of each RPC ended with which status. */
  readonly statuses: ReadonlyMap<string, ReadonlyMap<string, number>>;
  /** Live bytes on the heap of each service after a third of the calls, two thirds, and all. */
  readonly heaps: Readonly<Record<ServiceName, readonly number[]>>;
  readonly seconds: number;
}

const SERVES: Readonly<Record<ServiceName, readonly DescService[]>> = {
  run: [RunService, ParticipantService, RetentionOwnerService, StatusService],
  job: [JobService, ParticipantService, StatusService],
  incident: [IncidentService, ParticipantService, RetentionOwnerService, StatusService],
  retention: [RetentionService, StatusService],
};

/** Every RPC of every service, as `service package.Service/Method`. */
export const TARGETS: ReadonlyMap<string, { readonly service: ServiceName; readonly method: DescMethod }> = new Map(
  SERVICE_NAMES.flatMap((service) =>
    SERVES[service].flatMap(({ typeName, methods }) =>
      methods.map((method) => [`${service} ${typeName}/${method.name}`, { service, method }] as const),
    ),
  ),
);

const IN_FLIGHT = 16;
const HANG_MS = 20_000;
/** Half of which is the most that a watch is looked at. */
const MOMENT_MS = 400;

/**
 * Makes this many calls on a stack of its own, as the seed has them: which RPC, by whom, and what the request is made of.
 * Ids are those that the services give.
 */
export async function fuzz(options: { readonly calls: number; readonly seed: number }): Promise<FuzzReport> {
  const stack = await startTestStack({ env: INSPECTED });
  try {
    return await fuzzStack(stack, options);
  } finally {
    await stack.dispose();
  }
}

async function fuzzStack(
  stack: TestStack,
  { calls, seed }: { readonly calls: number; readonly seed: number },
): Promise<FuzzReport> {
  const startedAt = performance.now();
  const pids = SERVICE_NAMES.map((name) => stack.pid(name));
  const clients = Object.fromEntries(
    SERVICE_NAMES.map((name) => [name, new Client(stack.addresses[name], credentials.createInsecure())]),
  ) as Record<ServiceName, Client>;
  const known = makeKnownValues();
  const chooseCaller = await makeCallers(stack);
  const pages = new Map<string, NextPage>();
  const findings: Finding[] = [];
  const statuses = new Map<string, Map<string, number>>();
  const heaps = { run: [], job: [], incident: [], retention: [] } as Record<ServiceName, number[]>;
  const order = callOrder(calls, seed);
  let next = 0;

  const one = async (call: number): Promise<void> => {
    const rpc = order[call] as string;
    const { ended, ...made } = await makeCall({ call, seed, rpc, pages, known, clients, chooseCaller });
    const counts = statuses.get(rpc) ?? new Map<string, number>();
    statuses.set(rpc, counts.set(ended.status, (counts.get(ended.status) ?? 0) + 1));
    for (const problem of ended.problems) findings.push({ problem, call, rpc, ...made });
  };
  const callUntil = (end: number): Promise<unknown> =>
    Promise.all(
      Array.from({ length: IN_FLIGHT }, async () => {
        while (next < end) await one(next++);
      }),
    );
  for (const third of [1, 2, 3]) {
    await callUntil(Math.round((calls * third) / 3));
    for (const name of SERVICE_NAMES) heaps[name].push(await liveHeapBytes(logFileOf(stack, name)));
  }
  for (const client of Object.values(clients)) client.close();

  const logged: string[] = [];
  for (const [index, name] of SERVICE_NAMES.entries()) {
    if (stack.pid(name) !== pids[index]) logged.push(`${name} ended, and was started again`);
    const log = await readFile(logFileOf(stack, name), 'utf8');
    logged.push(...log.split('\n').filter((line) => SPEAKS_OF_DEFECT.test(line)));
  }
  return { findings, logged, statuses, heaps, seconds: (performance.now() - startedAt) / 1_000 };
}

const SPEAKS_OF_DEFECT =
  /unhandled|uncaught|call failed inside|MaxListenersExceeded|DeprecationWarning|"level":(50|60)/i;

const logFileOf = (stack: TestStack, name: ServiceName): string => join(stack.folder, 'logs', `${name}.log`);

/** Which RPC each call is of: all equally often, in an order that the seed gives. */
function callOrder(calls: number, seed: number): readonly string[] {
  const random = makeRandom(seed);
  const order: string[] = [];
  while (order.length < calls) order.push(...shuffle([...TARGETS.keys()], random));
  return order.slice(0, calls);
}

/** A list that goes on. */
interface NextPage {
  readonly request: Buffer;
  readonly caller: FuzzCaller;
}

interface Making {
  readonly call: number;
  readonly seed: number;
  readonly rpc: string;
  /** By RPC. */
  readonly pages: Map<string, NextPage>;
  readonly known: KnownValues;
  readonly clients: Readonly<Record<ServiceName, Client>>;
  readonly chooseCaller: ChooseCaller;
}

async function makeCall({ call, seed, rpc, pages, known, clients, chooseCaller }: Making) {
  const { service, method } = TARGETS.get(rpc) as { service: ServiceName; method: DescMethod };
  const random = makeRandom(seed + call * 7_919);
  const mood = chooseMood(random);
  const isStream = method.methodKind === 'client_streaming';
  const page = random() < 0.3 ? pages.get(rpc) : undefined;
  const requests = page
    ? [page.request]
    : Array.from({ length: isStream ? 1 + Math.floor(random() * 4) : 1 }, (_, at) =>
        makeRequest({ service, method, mood, at }, known, random),
      );
  const caller = page?.caller ?? (await chooseCaller(service, method, requests[0] as Buffer, random));
  const metadata = new Metadata();
  if (caller.token !== undefined) metadata.set('authorization', `Bearer ${caller.token}`);
  // A few callers have no patience, or go away.
  const isHasty = random() < 0.04;
  const cancelAfterMs = random() < 0.04 ? random() * 20 : undefined;
  const deadline = Date.now() + (isHasty ? random() * 30 : HANG_MS);
  const outcome = await perform(clients[service], method, requests, { metadata, deadline, cancelAfterMs });
  const ended = judge(method, outcome, { isHasty, known });
  if (ended.nextPageToken)
    pages.set(rpc, { request: withPageToken(method, requests[0] as Buffer, ended.nextPageToken), caller });
  return { caller: caller.name, mood, request: requests.map((bytes) => bytes.toString('base64')), ended };
}

interface Outcome {
  readonly error: ServiceError | undefined;
  readonly answers: readonly Buffer[];
  /** A watch that was left after a moment. */
  readonly isLeft: boolean;
}

interface Performing {
  readonly metadata: Metadata;
  readonly deadline: number;
  readonly cancelAfterMs: number | undefined;
}

const same = (bytes: Buffer): Buffer => bytes;

function perform(
  client: Client,
  method: DescMethod,
  requests: readonly Buffer[],
  { metadata, deadline, cancelAfterMs }: Performing,
): Promise<Outcome> {
  const path = `/${method.parent.typeName}/${method.name}`;
  const first = requests[0] as Buffer;
  return new Promise((resolve) => {
    const answers: Buffer[] = [];
    let isLeft = false;
    const end = (error: ServiceError | null | undefined): void =>
      resolve({ error: error ?? undefined, answers, isLeft });
    const answered = (error: ServiceError | null, answer?: Buffer): void => {
      if (answer) answers.push(answer);
      end(error);
    };
    let call: { cancel(): void };
    if (method.methodKind === 'server_streaming') {
      const stream = client.makeServerStreamRequest(path, same, same, first, metadata, { deadline });
      const leave = setTimeout(() => {
        isLeft = true;
        stream.cancel();
      }, MOMENT_MS);
      stream.on('data', (answer: Buffer) => answers.push(answer));
      stream.on('error', (error: ServiceError) => {
        clearTimeout(leave);
        end(error);
      });
      stream.on('end', () => {
        clearTimeout(leave);
        // An error comes after it where there is one.
        delay(0).then(() => end(undefined));
      });
      call = stream;
    } else if (method.methodKind === 'client_streaming') {
      const stream = client.makeClientStreamRequest(path, same, same, metadata, { deadline }, answered);
      for (const request of requests) stream.write(request);
      stream.end();
      call = stream;
    } else call = client.makeUnaryRequest(path, same, same, first, metadata, { deadline }, answered);
    if (cancelAfterMs !== undefined) setTimeout(() => call.cancel(), cancelAfterMs);
  });
}

// How a call ends that its handler never refused: without a reason of Lethe's.
const NO_REASON: ReadonlySet<number> = new Set([status.CANCELLED, status.DEADLINE_EXCEEDED, status.RESOURCE_EXHAUSTED]);
const NEVER: ReadonlySet<number> = new Set([status.UNKNOWN, status.INTERNAL, status.DATA_LOSS, status.UNAVAILABLE]);

function judge(
  method: DescMethod,
  { error, answers, isLeft }: Outcome,
  { isHasty, known }: { readonly isHasty: boolean; readonly known: KnownValues },
): { readonly status: string; readonly problems: readonly string[]; readonly nextPageToken?: string | undefined } {
  const problems: string[] = [];
  let nextPageToken: string | undefined;
  for (const bytes of answers) {
    try {
      const answer = fromBinary(method.output, bytes);
      known.learn(method.output, answer);
      nextPageToken = (answer as { nextPageToken?: string }).nextPageToken;
    } catch (unreadable) {
      problems.push(`an answer that is no ${method.output.typeName}: ${unreadable}`);
    }
  }
  if (isLeft) return { status: 'left', problems };
  if (!error) return { status: 'OK', problems, nextPageToken };
  const name = status[error.code] ?? String(error.code);
  if (NEVER.has(error.code)) problems.push(`${name}: ${error.details}`);
  if (error.code === status.DEADLINE_EXCEEDED && !isHasty) problems.push(`no answer in ${HANG_MS} ms`);
  const reason = reasonOf(error);
  if (reason === undefined && !NO_REASON.has(error.code)) problems.push(`${name} without a reason: ${error.details}`);
  return { status: reason === undefined ? name : `${name}/${reason}`, problems };
}

function reasonOf(error: ServiceError): string | undefined {
  const [packed] = error.metadata.get('grpc-status-details-bin');
  if (!(packed instanceof Uint8Array)) return undefined;
  const info = fromBinary(StatusSchema, packed).details.find(({ typeUrl }) => typeUrl.endsWith('ErrorInfo'));
  return info && fromBinary(ErrorInfoSchema, info.value).reason;
}
