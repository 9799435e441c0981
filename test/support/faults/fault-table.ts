import { SERVICE_NAMES, type ServiceName } from '#deploy/local/stack.ts';
import { readMarked, toMarkdownTable, writeMarked } from '#test/support/markdown-table.ts';
import type { Expected, Fault } from './fault.ts';
import { FAULTS } from './faults.ts';
import { expectedOf } from './measure.ts';
import { WORKS } from './work.ts';

const README = 'deploy/README.md';

const HEAD = ['of', 'fault', 'a read', 'a write', 'long work', 'a watch', '`/ready`', 'metric'];

const NAME: Readonly<Record<ServiceName, string>> = {
  run: 'Run',
  job: 'Job',
  incident: 'Incident',
  retention: 'Retention',
};

const toReady = ({ ready }: Expected): string => (ready === 'ok' ? '200' : `${ready[0]}, \`${ready[1]}\``);

function toMetric({ metric }: Expected): string {
  if (metric === 'none') return '';
  const [kind, what] = metric;
  return kind === 'part down'
    ? `\`lethe_part_up{part="${what}"}\` 0`
    : `\`lethe_rpc_duration_seconds{code="${what}"}\``;
}

/** What a cell is in every service, or in those that differ, by their names. */
function cell(fault: Fault, toText: (expected: Expected) => string): string {
  const texts = new Map(SERVICE_NAMES.map((name) => [name, toText(expectedOf(fault, name))]));
  const common = toText(fault.all);
  const others = [...texts].filter(([, text]) => text !== common).map(([name, text]) => `${NAME[name]}: ${text}`);
  return others.length > 0 ? others.join('; ') : common;
}

const toLongWork = ({ parks }: Fault): string => (parks ? `parked with ${parks}; ends when redriven` : 'ends after it');
const toWatch = ({ watch }: Fault): string => (watch === 'goes on' ? watch : 'goes on, or UNAVAILABLE');

/** The table of what is called and watched, and that of all faults. */
export const makeFaultTables = (): string =>
  toMarkdownTable([
    ['service', 'a read', 'a write', 'long work', 'a watch'],
    ...SERVICE_NAMES.map((name) => [`${NAME[name]}Service`, ...WORKS[name]]),
  ]) +
  toMarkdownTable([
    HEAD,
    ...FAULTS.map((fault) => [
      fault.on,
      fault.name,
      cell(fault, ({ read }) => read),
      cell(fault, ({ write }) => write),
      toLongWork(fault),
      toWatch(fault),
      cell(fault, toReady),
      cell(fault, toMetric),
    ]),
  ]).replace(/^\n/, '');

/** The tables as they stand in deploy/README.md; undefined where their marks are missing. */
export const readFaultTables = (): Promise<string | undefined> => readMarked(README, 'faults');

if (import.meta.main) await writeMarked(README, 'faults', makeFaultTables());
