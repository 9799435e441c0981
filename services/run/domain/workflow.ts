import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { JsonObject } from './run.ts';
import { MOST_STEPS } from './step.ts';

/** The SQL types that a workflow's own columns may have. */
export type ColumnType = 'uuid' | 'text' | 'integer' | 'boolean' | 'jsonb';

/**
 * A type of effect that RunService keeps itself; its name is its table's. Every row carries tenant, id, run and step
 * besides what is said here.
 */
export interface ResourceType {
  readonly name: string;
  /** The edges: which column points to which type. Empty for a root, which others must then point to. */
  readonly parents: Readonly<Record<string, string>>;
  /** What else a row says. */
  readonly columns: Readonly<Record<string, ColumnType>>;
  /**
   * Other runs may hang their rows on one of this type. It exists once, whoever comes first makes it, and it stays,
   * passed on to one of the others, when its maker is compensated.
   */
  readonly isShared?: true;
}

/** One row of an effect: its id, what it points to and what it says. */
export type EffectRow = { readonly id: string } & JsonObject;

/** The rows that a step makes, by type. */
export type Effects = Readonly<Record<string, readonly EffectRow[]>>;

/** What a step may know when it acts: all of it is durable, so that acting again comes to the same. */
export interface StepContext {
  readonly tenantId: string;
  readonly runId: string;
  readonly input: JsonObject;
  /** What the steps before it resulted in, by their names. */
  readonly outputs: Readonly<Record<string, JsonObject>>;
  /** The row that the step looked up; undefined when it looked none up or there is none. */
  readonly found: JsonObject | undefined;
}

/** What a step asks a participant to do, under the key (run, step). */
export interface RemoteAction {
  readonly participant: string;
  readonly action: string;
  readonly input: JsonObject;
}

/** What an action came to. Effects are there also when it failed, and are compensated with the rest. */
export interface StepOutcome {
  readonly effects: Effects;
  readonly output: JsonObject;
  /** Why the step failed, and the run with it; undefined when it did well. */
  readonly failure: string | undefined;
}

/** What a step does: a call first, where it has one, and then its own effects, knowing the call's answer. */
export interface StepAction {
  readonly remote?: RemoteAction | undefined;
  /**
   * Why the step will fail however its call goes: the run's error is this, also where the call is refused or not
   * answered. Undefined: only the call or `finish` can tell.
   */
  readonly cause?: string | undefined;
  finish(answer: JsonObject): StepOutcome;
}

/**
 * One step: an action, and by what it declares its compensation, which needs no code of its own. What the step created
 * here is deleted by run and step, children before parents; every participant deletes what the step created there.
 */
export interface WorkflowStep {
  readonly name: string;
  /** The types of which it creates rows here. */
  readonly creates: readonly string[];
  /** The participants that it may ask, with the types of which it creates effects there. */
  readonly participants: Readonly<Record<string, readonly string[]>>;
  /** A row that it must see before it acts. */
  lookUp?(context: StepContext): { readonly type: string; readonly id: string } | undefined;
  /** Says what is to be done: plain and repeatable. A DomainError fails the step. */
  act(context: StepContext): StepAction;
}

/** A workflow that Lethe does itself. */
export interface Workflow {
  readonly name: string;
  readonly types: readonly ResourceType[];
  /** In the order in which they act; never empty. */
  readonly steps: readonly WorkflowStep[];
  /** Passes for an input that the first step can work with; FIELD_INVALID otherwise. */
  checkInput(input: JsonObject): void;
  /**
   * Actions that a later step may ask for, as far as the input decides them. Participants check them before a run
   * begins, so that what can never succeed is refused by the name of its field. Absent: there are none.
   */
  foresee?(input: JsonObject): readonly RemoteAction[];
  /**
   * Which fields of the output are ids of what a step made with a participant, where that may be deleted by itself.
   * Absent: none is.
   */
  readonly outputNames?: Readonly<
    Record<string, { readonly step: string; readonly participant: string; readonly resourceType: string }>
  >;
  /** What a completed run resulted in. */
  output(outputs: StepContext['outputs']): JsonObject;
}

/** How one step is compensated, as it is kept with the runs that began with it. */
export interface StepDeclaration {
  readonly name: string;
  /** Tables, in the order in which their rows go. */
  readonly removes: readonly string[];
  /** Tables among them whose rows hang on one that other runs share. */
  readonly sharing: readonly string[];
}

/**
 * What a run keeps of the workflow that it began with: compensation reads nothing else, so that a later version of the
 * workflow cannot change what has to go.
 */
export interface Declaration {
  readonly workflow: string;
  readonly steps: readonly StepDeclaration[];
}

const STEP_NAME = /^[a-z0-9_-]{1,100}$/;
const IDENTIFIER = /^[a-z][a-z0-9_]{0,62}$/;

/** What is wrong with a declaration; empty when nothing is. */
export function findProblems({ types, steps }: Pick<Workflow, 'types' | 'steps'>): string[] {
  const problems: string[] = [];
  const typeOf = new Map(types.map((type) => [type.name, type]));
  const edges = types.flatMap(({ name, parents }) => Object.values(parents).map((parent) => ({ child: name, parent })));
  const makers = (type: string): number[] => steps.flatMap(({ creates }, at) => (creates.includes(type) ? [at] : []));

  if (steps.length === 0) problems.push('there are no steps');
  if (steps.length > MOST_STEPS) problems.push(`there are more than ${MOST_STEPS} steps`);
  for (const name of repeated(steps.map((step) => step.name))) problems.push(`step ${name} is there twice`);
  for (const name of repeated(types.map((type) => type.name))) problems.push(`type ${name} is there twice`);
  for (const { name, creates } of steps) {
    if (!STEP_NAME.test(name)) problems.push(`${name} cannot name a step`);
    for (const type of creates) if (!typeOf.has(type)) problems.push(`step ${name} creates ${type}, which is no type`);
  }
  for (const { name, parents, columns } of types) {
    const names = [name, ...Object.keys(parents), ...Object.keys(columns)];
    for (const bad of names.filter((each) => !IDENTIFIER.test(each)))
      problems.push(`${bad} cannot name a table or column`);
    if (!edges.some(({ child, parent }) => child === name || parent === name))
      problems.push(`type ${name} has no edge`);
    if (makers(name).length !== 1) problems.push(`type ${name} is created by ${makers(name).length} steps, not one`);
  }
  for (const { child, parent } of edges) {
    if (!typeOf.has(parent)) problems.push(`${child} hangs on ${parent}, which is no type`);
    const [made = Number.NaN] = makers(child);
    if (makers(parent).some((at) => at > made))
      problems.push(`${child} is created before ${parent}, on which it hangs`);
  }
  if (problems.length === 0) {
    const cyclic = childrenFirst(
      types,
      types.map(({ name }) => name),
    ).cyclic;
    if (cyclic.length > 0) problems.push(`${cyclic.join(', ')} hang on one another`);
  }
  return problems;
}

/** The workflow, when its declaration is sound; an Error that names everything that is wrong otherwise. */
export function declare<W extends Workflow>(workflow: W): W {
  const problems = findProblems(workflow);
  if (problems.length > 0) throw new Error(`Workflow ${workflow.name} is declared wrongly: ${problems.join('; ')}.`);
  return workflow;
}

/** What a run keeps of its workflow: the deletion order of every step, computed from the edges. */
export const toDeclaration = ({ name, types, steps }: Pick<Workflow, 'name' | 'types' | 'steps'>): Declaration => ({
  workflow: name,
  steps: steps.map((step) => {
    const removes = childrenFirst(types, step.creates).order;
    const isShared = (type: string): boolean => types.some((each) => each.name === type && each.isShared === true);
    const hangsOnShared = (type: string): boolean =>
      types.some((each) => each.name === type && Object.values(each.parents).some(isShared));
    const makesShared = removes.some(isShared);
    return { name: step.name, removes, sharing: makesShared ? removes.filter(hangsOnShared) : [] };
  }),
});

/** All tables in the order in which a whole run's rows go: newest step first, children before parents. */
export const deletionOrder = (workflow: Pick<Workflow, 'name' | 'types' | 'steps'>): readonly string[] =>
  toDeclaration(workflow)
    .steps.toReversed()
    .flatMap(({ removes }) => removes);

/** Whose rows hang on rows of a type that runs share, and by which column; undefined for a type that is not shared. */
export function sharersOf(
  { types }: Pick<Workflow, 'types'>,
  name: string,
): readonly { readonly table: string; readonly column: string }[] | undefined {
  if (!types.some((type) => type.name === name && type.isShared === true)) return undefined;
  return types.flatMap((type) =>
    Object.entries(type.parents).flatMap(([column, parent]) => (parent === name ? [{ table: type.name, column }] : [])),
  );
}

/** Names a declaration by what it says: two versions of a workflow that compensate alike are one. */
export const digestOf = (declaration: Declaration): string => fingerprint({ ...declaration });

/**
 * The id of the n-th row of a type that a run makes. It is always the same one, so that what acts twice cannot write
 * twice, and it begins like the run's own, so that indexes grow at their end.
 */
export function effectId(runId: string, type: string, index = 0): string {
  const digest = fingerprint({ runId, type, index });
  const variant = '89ab'[Number.parseInt(digest.charAt(3), 16) % 4];
  return `${runId.slice(0, 13)}-8${digest.slice(0, 3)}-${variant}${digest.slice(4, 7)}-${digest.slice(8, 20)}`;
}

/** The types in the order of their deletion, and those that no order exists for. */
function childrenFirst(
  types: readonly ResourceType[],
  of: readonly string[],
): { readonly order: readonly string[]; readonly cyclic: readonly string[] } {
  const order: string[] = [];
  let left = [...of];
  while (left.length > 0) {
    // What none of the others hangs on may go.
    const free = left.filter(
      (name) =>
        !left.some((other) => {
          const parents = types.find((type) => type.name === other)?.parents ?? {};
          return other !== name && Object.values(parents).includes(name);
        }),
    );
    if (free.length === 0) return { order, cyclic: left };
    order.push(...free);
    left = left.filter((name) => !free.includes(name));
  }
  return { order, cyclic: [] };
}

const repeated = (names: readonly string[]): string[] => [
  ...new Set(names.filter((name, index) => names.indexOf(name) !== index)),
];
