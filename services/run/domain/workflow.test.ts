import test from 'ava';
import { clientToDelivery } from '../workflows/client-to-delivery/workflow.ts';
import { MOST_STEPS } from './step.ts';
import { declare, deletionOrder, digestOf, effectId, findProblems, toDeclaration, type Workflow } from './workflow.ts';

const RUN = '01890a5d-ac96-774b-bcce-b302099a8057';

const step = (name: string, ...creates: string[]): Workflow['steps'][number] => ({
  name,
  creates,
  participants: {},
  act: () => ({ finish: () => ({ effects: {}, output: {}, failure: undefined }) }),
});

const type = (name: string, parents: Record<string, string> = {}): Workflow['types'][number] => ({
  name,
  parents,
  columns: {},
});

test("the deletion order of client_to_delivery is the seed's", (t) => {
  t.deepEqual(deletionOrder(clientToDelivery), [
    'delivery_artifacts',
    'delivery_packages',
    'qc_issues',
    'qc_results',
    'production_bundle_assets',
    'production_bundles',
    'production_drafts',
    'strategy_document',
    'onboarding_intake',
    'onboarding_brief',
  ]);
});

test('the deletion order follows the edges, in whatever order the types are named', (t) => {
  const types = [type('a'), type('b', { a_id: 'a' }), type('c', { b_id: 'b', a_id: 'a' })];
  const order = (names: readonly string[]) => deletionOrder({ name: 'x', types, steps: [step('one', ...names)] });
  for (const names of [
    ['a', 'b', 'c'],
    ['c', 'b', 'a'],
    ['b', 'a', 'c'],
  ]) {
    t.deepEqual(order(names), ['c', 'b', 'a']);
  }
});

const PROBLEMS: readonly [string, Pick<Workflow, 'types' | 'steps'>, RegExp][] = [
  ['a type without an edge', { types: [type('a')], steps: [step('one', 'a')] }, /type a has no edge/],
  [
    'a type that no step creates',
    { types: [type('a'), type('b', { a_id: 'a' })], steps: [step('one', 'a')] },
    /type b is created by 0 steps/,
  ],
  ['a step that creates what is no type', { types: [], steps: [step('one', 'a')] }, /creates a, which is no type/],
  [
    'an edge to what is no type',
    { types: [type('b', { a_id: 'a' })], steps: [step('one', 'b')] },
    /b hangs on a, which is no type/,
  ],
  [
    'a child that is made before its parent',
    { types: [type('a'), type('b', { a_id: 'a' })], steps: [step('one', 'b'), step('two', 'a')] },
    /b is created before a/,
  ],
  [
    'types that hang on one another',
    { types: [type('a', { b_id: 'b' }), type('b', { a_id: 'a' })], steps: [step('one', 'a', 'b')] },
    /hang on one another/,
  ],
  [
    'two steps of one name',
    { types: [type('a'), type('b', { a_id: 'a' })], steps: [step('one', 'a'), step('one', 'b')] },
    /step one is there twice/,
  ],
  [
    'a name that is SQL',
    {
      types: [type('a; drop table b'), type('b', { a_id: 'a; drop table b' })],
      steps: [step('one', 'a; drop table b', 'b')],
    },
    /cannot name a table/,
  ],
];

for (const [what, declaration, message] of PROBLEMS) {
  test(`${what} is a wrong declaration`, (t) => {
    t.regex(findProblems(declaration).join('\n'), message);
    t.throws(() => declare({ ...clientToDelivery, ...declaration }), { message });
  });
}

test('a declaration says which rows hang on what other runs share', (t) => {
  const { steps } = toDeclaration(clientToDelivery);
  t.deepEqual(
    steps.filter(({ sharing }) => sharing.length > 0),
    [{ name: 'brief', removes: ['onboarding_intake', 'onboarding_brief'], sharing: ['onboarding_intake'] }],
  );
});

test('a declaration has one digest, and another one has another', (t) => {
  const declaration = toDeclaration(clientToDelivery);
  t.is(digestOf(declaration), digestOf(JSON.parse(JSON.stringify(declaration))));
  t.not(digestOf(declaration), digestOf({ ...declaration, steps: declaration.steps.slice(1) }));
});

test('the id of an effect is always the same, a UUID, and its own', (t) => {
  t.is(effectId(RUN, 'a', 1), effectId(RUN, 'a', 1));
  t.regex(effectId(RUN, 'a'), /^01890a5d-ac96-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  t.is(new Set([effectId(RUN, 'a', 0), effectId(RUN, 'a', 1), effectId(RUN, 'b', 0)]).size, 3);
});

test('a workflow has no more steps than a run may have', (t) => {
  const steps = Array.from({ length: MOST_STEPS }, (_, at) => step(`step-${at}`));
  t.deepEqual(findProblems({ types: [], steps }), []);
  t.deepEqual(findProblems({ types: [], steps: [...steps, step('last')] }), ['there are more than 1000 steps']);
});
