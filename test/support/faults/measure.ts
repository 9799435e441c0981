import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import { until } from '#test/support/test-stack.ts';
import type { Expected, Fault } from './fault.ts';
import { type Ground, outcomeOf } from './ground.ts';
import { beginWork, type Watched, type Work } from './work.ts';

/** What a fault came to. */
export interface Measured {
  /** How calls ended during the fault: how often each, by service. */
  readonly outcomes: Readonly<Record<ServiceName, Readonly<Record<'read' | 'write', ReadonlyMap<string, number>>>>>;
  readonly watches: Readonly<Record<Watched, string>>;
  /** Seconds from the end of the fault until every call was answered, `/ready` had nothing to tell, and all work was done. */
  readonly seconds: {
    readonly calls: number;
    readonly ready: number;
    readonly work: Readonly<Record<ServiceName, number>>;
  };
  /** What was not as it should be, as sentences; none where all was. */
  readonly findings: readonly string[];
}

const RELEASE_MS = 200;
// What a caller that tries again is served by; anything else but the expected is a finding.
const PASSING = /^(answers|(UNAVAILABLE|ABORTED) \w+)$/;

/** Applies a fault in the middle of all work, waits until it shows as expected, ends it, and waits until all is good. */
export async function measure(ground: Ground, fault: Fault): Promise<Measured> {
  const findings: string[] = [];
  const notingIn = async (what: string, work: Promise<unknown>): Promise<void> => {
    await work.catch((error: Error) => findings.push(`${what}: ${error.message}`));
  };
  const probeOf = (name: ServiceName) =>
    fault.on === 'object store' && name === 'job' ? ground.objectProbe : ground.probes[name];
  const work = await beginWork(ground, `t${crypto.randomUUID().slice(0, 8)}`);
  const before = await Promise.all(SERVICE_NAMES.map((name) => lookAt(ground, name)));
  const outcomes = Object.fromEntries(
    SERVICE_NAMES.map((name) => [name, { read: new Map<string, number>(), write: new Map<string, number>() }]),
  ) as Record<ServiceName, Record<'read' | 'write', Map<string, number>>>;

  const releasing = new Promise((resolve) => setTimeout(resolve, RELEASE_MS)).then(work.release);
  await fault.apply(ground);
  await Promise.all(
    SERVICE_NAMES.map(async (name, index) => {
      const expected = expectedOf(fault, name);
      const probing = (['read', 'write'] as const).map((kind) =>
        notingIn(
          `a ${kind} of ${name} is ${expected[kind]}`,
          until('', async () => {
            const outcome = await outcomeOf(probeOf(name)[kind]());
            outcomes[name][kind].set(outcome, (outcomes[name][kind].get(outcome) ?? 0) + 1);
            return outcome === expected[kind];
          }),
        ),
      );
      await Promise.all(probing);
      await notingIn(
        `${name} tells ${JSON.stringify(expected.ready)} by /ready`,
        until('', async () => isReadyAs(expected, await readinessOf(ground, name))),
      );
      const { pid, counts } = before[index] ?? {};
      if (!fault.restarts?.includes(name) && ground.stack.pid(name) !== pid) findings.push(`${name} was started anew`);
      await notingIn(
        `${name} tells ${expected.metric} by /metrics`,
        until('', async () => hasMoved(expected.metric, counts ?? '', await metricsOf(ground, name))),
      );
    }),
  );
  await releasing;
  await fault.undo(ground);
  const endedAt = performance.now();
  const since = () => (performance.now() - endedAt) / 1_000;
  const seconds = { calls: 0, ready: 0, work: { run: 0, job: 0, incident: 0, retention: 0 } };
  await Promise.all([
    ...SERVICE_NAMES.flatMap((name) => [
      ...(['read', 'write'] as const).map(async (kind) => {
        const answers = until('', async () => (await outcomeOf(probeOf(name)[kind]())) === 'answers');
        await notingIn(`a ${kind} of ${name} is answered after it`, answers);
        seconds.calls = Math.max(seconds.calls, since());
      }),
      (async () => {
        const isGood = until('', async () => {
          const { status, lines } = await readinessOf(ground, name);
          return status === 200 && lines.every((line) => line.endsWith(': ok'));
        });
        await notingIn(`/ready of ${name} has nothing to tell after it`, isGood);
        seconds.ready = Math.max(seconds.ready, since());
      })(),
    ]),
    ...SERVICE_NAMES.map(async (name) => {
      const isDone = until('', async () => {
        if (fault.parks) await work.redrive();
        return work.isDone[name]();
      });
      await notingIn(`the work of ${name} ends`, isDone);
      seconds.work[name] = since();
    }),
  ]);
  findings.push(...misbehaved(outcomes, fault), ...(await unhandled(ground)));
  const watches = await watchesOf(work, fault, findings);
  return { outcomes, watches, seconds, findings };
}

/** The seconds of a fault, for people. */
export function describeSeconds({ calls, ready, work }: Measured['seconds']): string {
  const ended = Object.entries(work).map(([name, s]) => `${name} ${s.toFixed(1)} s`);
  return `calls ${calls.toFixed(1)} s, /ready ${ready.toFixed(1)} s; work of ${ended.join(', ')}`;
}

/** What a service is expected to show of a fault. */
export const expectedOf = (fault: Fault, name: ServiceName): Expected => ({ ...fault.all, ...fault.of?.[name] });

async function watchesOf(work: Work, fault: Fault, findings: string[]): Promise<Measured['watches']> {
  const ended: Partial<Record<Watched, string>> = {};
  for (const name of ['run', 'job', 'retention'] as const) {
    const patience = new Promise<string>((resolve) => setTimeout(resolve, 20_000, 'never ends').unref());
    const outcome = await Promise.race([work.watches[name], patience]);
    ended[name] = outcome;
    const isExpected =
      fault.watch === 'goes on' ? outcome === 'answers' : outcome === 'answers' || /^UNAVAILABLE /.test(outcome);
    const isCut = fault.restarts?.includes(name) ? /^UNAVAILABLE /.test(outcome) : false;
    if (!isExpected && !isCut) findings.push(`a watch of ${name}: ${outcome}`);
    if (outcome.includes('without')) findings.push(`a watch of ${name}: ${outcome}`);
  }
  return ended as Measured['watches'];
}

function* misbehaved(outcomes: Measured['outcomes'], fault: Fault): Iterable<string> {
  for (const name of SERVICE_NAMES) {
    for (const kind of ['read', 'write'] as const) {
      for (const outcome of outcomes[name][kind].keys()) {
        const isCut = outcome === 'UNAVAILABLE by nobody' && fault.restarts?.includes(name);
        if (!PASSING.test(outcome) && !isCut && outcome !== expectedOf(fault, name)[kind])
          yield `a ${kind} of ${name}: ${outcome}`;
      }
    }
  }
}

const urlOf = ({ stack }: Ground, name: ServiceName, path: string): string =>
  `http://${stack.environment(name)['LETHE_METRICS_ADDRESS']}/${path}`;

async function readinessOf(ground: Ground, name: ServiceName) {
  const response = await fetch(urlOf(ground, name, 'ready'));
  return { status: response.status, lines: (await response.text()).trim().split('\n') };
}

const metricsOf = async (ground: Ground, name: ServiceName): Promise<string> =>
  (await fetch(urlOf(ground, name, 'metrics'))).text();

const lookAt = async (ground: Ground, name: ServiceName) => ({
  pid: ground.stack.pid(name),
  counts: await metricsOf(ground, name),
});

const isReadyAs = ({ ready }: Expected, { status, lines }: Awaited<ReturnType<typeof readinessOf>>): boolean => {
  if (ready === 'ok') return status === 200 && lines.every((line) => line.endsWith(': ok'));
  const [code, part, what] = ready;
  return status === code && lines.some((line) => line.startsWith(`${part}: `) && line.includes(what));
};

/** Whether a metric has moved: a part is down, or calls have ended with a status. */
function hasMoved(metric: Expected['metric'], before: string, now: string): boolean {
  if (metric === 'none') return true;
  const [kind, what] = metric;
  if (kind === 'part down') return new RegExp(`^lethe_part_up\\{.*part="${what}".*\\} 0$`, 'm').test(now);
  return endedWith(what, now) > endedWith(what, before);
}

const endedWith = (code: string, text: string): number =>
  [...text.matchAll(/^lethe_rpc_duration_seconds_count\{(.*)\} (\d+)$/gm)]
    .filter(([, labels]) => labels?.includes(`code="${code}"`))
    .reduce((sum, [, , count]) => sum + Number(count), 0);

/** Lines of logs that speak of a rejection that nobody handled. */
async function unhandled({ stack }: Ground): Promise<readonly string[]> {
  const found = await Promise.all(
    SERVICE_NAMES.map(async (name) => {
      const log = await readFile(join(stack.folder, 'logs', `${name}.log`), 'utf8');
      return log.split('\n').filter((line) => /unhandled|uncaught/i.test(line));
    }),
  );
  return found.flat();
}
