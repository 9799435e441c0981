import { open } from 'node:fs/promises';
import { fromJson, type JsonObject } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { type Execution, ExecutionSchema, ExecutionState } from '#gen/lethe/run/v1/run_pb.ts';
import type { NewExecution, RecordedExecutions } from '#libs/client/executions.ts';
import type { CommandContext, Run } from '../context.ts';
import { defined } from '../defined.ts';
import { addExamples } from '../example.ts';
import { addLimit, type ListOptions, printList } from '../list.ts';
import { EXIT, instantOf, nameOf } from '../output.ts';
import { enumNames, enumValue, instant } from '../parse.ts';
import { makeTable, toTable } from '../table.ts';
import { UsageError } from '../usage-error.ts';

interface ExecutionListOptions extends ListOptions {
  readonly workflow?: string;
  readonly status?: string;
  readonly state?: ExecutionState;
  readonly since?: Timestamp;
  readonly until?: Timestamp;
}

interface CountOptions {
  readonly from?: string;
  readonly to?: string;
  readonly workflow?: string;
}

const STATES = enumNames(ExecutionState).join(', ');
const MAX_LINE = 1_048_576;

const executionTable = makeTable<Execution>({
  EXECUTION: ({ id }) => id,
  STATE: ({ state }) => nameOf(ExecutionState, state),
  STATUS: ({ status }) => status,
  WORKFLOW: ({ workflow }) => workflow,
  STARTED: ({ startTime, createTime }) => instantOf(startTime ?? createTime),
  FINISHED: ({ finishTime }) => instantOf(finishTime),
});

/** `lethe executions …`. */
export function addExecutionCommands(program: Command, run: Run): void {
  const executions = program.command('executions').description('execution history');

  addExamples(
    executions
      .command('record <file>')
      .description('record executions, one JSON object a line; - reads standard input')
      .addHelpText(
        'after',
        '\nA line: {"id": "UUID", "workflow": "sync", "status": "success", "startTime": "2026-11-21T08:00:00Z"}',
      )
      .action((file: string) => run((context) => record(context, file))),
    'lethe --tenant acme executions record executions.jsonl',
  );

  addExamples(
    addLimit(executions.command('list').description('newest first by start'))
      .option('--workflow <name>', 'only executions of this workflow')
      .option('--status <status>', 'only executions with this status')
      .option('--state <state>', `one of ${STATES}`, enumValue(ExecutionState))
      .option('--since <instant>', 'only executions that started then or later', instant)
      .option('--until <instant>', 'only executions that started before', instant)
      .action(({ since, until, limit, all, ...filter }: ExecutionListOptions) =>
        run(async (context) => {
          const ages = defined({ afterTime: since, beforeTime: until });
          const found = context.lethe.executions.list({ ...filter, ...ages });
          await printList(context, found, { limit, all }, executionTable);
        }),
      ),
    "lethe --tenant acme executions list --workflow 'sync contacts' --limit 10",
  );

  addExamples(
    executions
      .command('count')
      .description('by day and state, over at most 31 days')
      .option('--from <day>', 'the first day, such as 2026-11-21; 30 days before the last one by default')
      .option('--to <day>', 'the last day; today by default')
      .option('--workflow <name>', 'only executions of this workflow')
      .action(({ from, to, ...filter }: CountOptions) =>
        run(async ({ lethe, print }) => {
          const days = defined({ firstDay: from, lastDay: to });
          const counts = await lethe.executions.count({ ...filter, ...days });
          const rows = counts.map(({ day, state, count }) => [day, nameOf(ExecutionState, state), String(count)]);
          print(counts, () => toTable(['DAY', 'STATE', 'COUNT'], rows));
        }),
      ),
    'lethe --tenant acme executions count --from 2026-11-01',
  );
}

async function record({ lethe, terminal, progress, print }: CommandContext, file: string): Promise<number> {
  const handle = file === '-' ? undefined : await open(file).catch(() => undefined);
  if (file !== '-' && !handle) throw new UsageError(`${file} cannot be read`);
  let recorded: RecordedExecutions = { created: 0, updated: 0, expired: 0 };
  const tell = (): void =>
    print(recorded, () => `${recorded.created} created, ${recorded.updated} updated, ${recorded.expired} expired`);
  try {
    const source: AsyncIterable<Uint8Array> = handle?.createReadStream({ autoClose: false }) ?? terminal.input;
    await lethe.executions.record(parsedLines(source), {
      onProgress(sums) {
        recorded = sums;
        const done = sums.created + sums.updated + sums.expired;
        progress.update(done, done, 'executions');
      },
    });
    tell();
    return EXIT.ok;
  } catch (error) {
    // What went before the line that could not be read is recorded, and no usage error may hide that.
    if (!(error instanceof UsageError) || recorded.created + recorded.updated + recorded.expired === 0) throw error;
    tell();
    terminal.err(`error: USAGE: ${error.message}`);
    return EXIT.partial;
  } finally {
    await handle?.close();
  }
}

async function* parsedLines(source: AsyncIterable<Uint8Array>): AsyncIterable<NewExecution> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let rest = '';
  let number = 0;
  const decoded = (bytes?: Uint8Array): string => {
    try {
      return bytes ? decoder.decode(bytes, { stream: true }) : decoder.decode();
    } catch {
      throw new UsageError(`what follows line ${number} is no UTF-8`);
    }
  };
  for await (const bytes of source) {
    const lines = (rest + decoded(bytes)).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      number += 1;
      if (line.trim() !== '') yield parseLine(line, number);
    }
    if (rest.length > MAX_LINE) throw new UsageError(`line ${number + 1} is longer than 1 MiB`);
  }
  rest += decoded();
  if (rest.trim() !== '') yield parseLine(rest, number + 1);
}

/** A line as protobuf's JSON of an Execution; its state may go by its short name. */
function parseLine(line: string, number: number): NewExecution {
  try {
    const json = JSON.parse(line) as JsonObject;
    const { state } = json;
    const named = typeof state === 'string' && state in ExecutionState ? `EXECUTION_STATE_${state}` : state;
    const {
      $typeName: _,
      id,
      ...execution
    } = fromJson(ExecutionSchema, named === undefined ? json : { ...json, state: named });
    return id === '' ? execution : { id, ...execution };
  } catch {
    // The line itself stays out of the message: it may hold what should not get into a log.
    throw new UsageError(`line ${number} is no execution as a JSON object`);
  }
}
