import { randomUUID } from 'node:crypto';
import type { ExecutionContext, TestFn } from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';

/** Declares a test, under its title. */
export type Declare = (title: string, body: (t: ExecutionContext<unknown>) => Promise<void>) => void;

async function* chunks(...texts: string[]): AsyncIterable<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

async function read(store: ObjectStore, key: string): Promise<string | undefined> {
  const found = await store.get(key);
  return found && Buffer.concat(await Array.fromAsync(found.body)).toString();
}

const options = { contentType: 'text/plain', maxBytes: 100 };
const empty = { versions: 0, markers: 0, uploads: 0, bytes: 0 };

/** What every object store must do, in the words of its port. `isVersioned` says what an overwrite leaves. */
export function objectStoreContract(
  declare: Declare,
  name: string,
  open: () => ObjectStore,
  isVersioned: boolean,
): void {
  const test: Declare = (title, body) => declare(`${name}: ${title}`, body);
  const freshPrefix = () => `tenants/acme/jobs/${randomUUID()}/`;

  test('put makes the object visible whole, with its type, size and digest', async (t) => {
    const store = open();
    const key = `${freshPrefix()}input/a.txt`;
    const { bytes, sha256 } = await store.put(key, chunks('hello ', 'world'), options);
    t.is(bytes, 11);
    t.is(sha256, 'b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9');
    t.is(await read(store, key), 'hello world');
    t.like(await store.get(key), { bytes: 11, contentType: 'text/plain' });
    t.is(await store.get(`${key}x`), undefined);
  });

  test('put of nothing makes an empty object', async (t) => {
    const store = open();
    const key = `${freshPrefix()}input/a`;
    await store.put(key, chunks(), options);
    t.is(await read(store, key), '');
  });

  test('put leaves nothing when the body is too long, breaks off, or the signal is aborted', async (t) => {
    const store = open();
    const prefix = freshPrefix();
    const long = await t.throwsAsync(store.put(`${prefix}input/a`, chunks('x'.repeat(101)), options), {
      instanceOf: DomainError,
    });
    t.is(long?.reason, 'ARTIFACT_TOO_LARGE');
    const broken = (async function* () {
      yield Buffer.from('x');
      throw new Error('broke off');
    })();
    await t.throwsAsync(store.put(`${prefix}input/b`, broken, options), { message: 'broke off' });
    const controller = new AbortController();
    const aborted = (async function* () {
      yield Buffer.from('x');
      controller.abort();
      yield Buffer.from('y');
    })();
    await t.throwsAsync(store.put(`${prefix}input/c`, aborted, { ...options, signal: controller.signal }));
    t.deepEqual(await store.count(prefix), empty);
  });

  test('an upload that removePrefix has ended fails, however late it is', async (t) => {
    const store = open();
    const prefix = freshPrefix();
    const begun = Promise.withResolvers<void>();
    const removed = Promise.withResolvers<void>();
    const body = (async function* () {
      yield Buffer.alloc(6_000_000);
      begun.resolve();
      await removed.promise;
      yield Buffer.from('late');
    })();
    const put = t.throwsAsync(store.put(`${prefix}input/late`, body, { ...options, maxBytes: 10_000_000 }));
    await begun.promise;
    t.is((await store.count(prefix)).uploads, 1);
    t.like(await store.removePrefix(prefix, { limit: 100 }), { objects: 0, uploads: 1, progress: 'COMPLETE' });
    removed.resolve();
    await put;
    t.deepEqual(await store.count(prefix), empty);
  });

  test("removePrefix ends its own prefix's uploads, within its limit, and not those of a neighbour", async (t) => {
    const store = open();
    const root = freshPrefix();
    const removed = Promise.withResolvers<void>();
    const begin = (key: string) => {
      const begun = Promise.withResolvers<void>();
      const body = (async function* () {
        yield Buffer.from('x');
        begun.resolve();
        await removed.promise;
        yield Buffer.from('y');
      })();
      const put = store.put(key, body, options).then(
        () => 'stored',
        () => 'refused',
      );
      return { begun: begun.promise, put };
    };
    const keys = ['1/a', '1/a', '1/b', '1/c', '1/d', '10/a'];
    const uploads = keys.map((key) => begin(`${root}${key}`));
    await Promise.all(uploads.map(({ begun }) => begun));
    t.is((await store.count(`${root}1/`)).uploads, 5);
    const each = await store.countEach(['1', '10', '2', '3'].map((name) => `${root}${name}/`));
    t.deepEqual(
      each.map((found) => found.uploads),
      [5, 1, 0, 0],
    );
    t.like(await store.removePrefix(`${root}1/`, { limit: 3 }), { uploads: 3, progress: 'PARTIAL' });
    t.like(await store.removePrefix(`${root}1/`, { limit: 3 }), { uploads: 2, progress: 'COMPLETE' });
    removed.resolve();
    t.deepEqual(
      await Promise.all(uploads.map(({ put }) => put)),
      keys.map((key) => (key.startsWith('10/') ? 'stored' : 'refused')),
    );
    t.deepEqual(await store.count(`${root}1/`), empty);
    t.is(await read(store, `${root}10/a`), 'xy');
  });

  test('what is below each of several prefixes is counted as below each alone, whatever lies between them', async (t) => {
    const store = open();
    const root = `tenants/acme/jobs/${randomUUID()}/`;
    const names = Array.from({ length: 24 }, (_, index) => `${index}`.padStart(2, '0'));
    const prefixes = names.map((name) => `${root}${name}/`);
    const keys = [
      ...names.filter((_, index) => index % 3 > 0).flatMap((name) => [`${name}/input/a`, `${name}/output/b`]),
      '00-x/a',
      '1/a',
      '05/input/c',
      '05/input/d',
      '05x/a',
      '23/output/é',
      '3',
      '99/a',
    ];
    for (const key of keys) await store.put(`${root}${key}`, chunks(key), options);
    await store.put(`${root}05/input/a`, chunks('again'), options);
    for (const asked of [prefixes, prefixes.slice(3, 20), prefixes.slice(0, 2), [], [`${root}07/`]]) {
      const alone = await Promise.all(asked.map((prefix) => store.count(prefix)));
      t.deepEqual(await store.countEach(asked), alone);
    }
    t.true((await store.countEach(prefixes)).some(({ versions }) => versions > 1));
  });

  test("an error of the body comes out as it is, not as the store's, whatever code it carries", async (t) => {
    const store = open();
    const prefix = freshPrefix();
    const cancelled = Object.assign(new Error('the caller went away'), {
      code: 'ECONNRESET',
      errno: -104,
      syscall: 'read',
    });
    const broken = (async function* () {
      yield Buffer.from('x');
      throw cancelled;
    })();
    t.is(await t.throwsAsync(store.put(`${prefix}input/a`, broken, options)), cancelled);
    t.deepEqual(await store.count(prefix), empty);
  });

  test('puts to one key at the same time all succeed, and one of them is what is read', async (t) => {
    const store = open();
    const key = `${freshPrefix()}input/a`;
    const texts = Array.from({ length: 8 }, (_, index) => `text ${index}`);
    await Promise.all(texts.map((text) => store.put(key, chunks(text), options)));
    t.true(texts.includes((await read(store, key)) ?? ''));
  });

  test('a removal whose signal is aborted throws and takes nothing', async (t) => {
    const store = open();
    const prefix = freshPrefix();
    await store.put(`${prefix}input/a`, chunks('x'), options);
    const error = await t.throwsAsync(store.removePrefix(prefix, { limit: 10, signal: AbortSignal.abort() }));
    t.is(error?.name, 'AbortError');
    t.is((await store.count(prefix)).versions, 1);
  });

  test('a get whose caller has gone before it begins ends by its signal', async (t) => {
    const store = open();
    const key = `${freshPrefix()}input/a`;
    await store.put(key, chunks('x'), options);
    await t.throwsAsync(store.get(key, AbortSignal.abort()), { name: 'AbortError' });
    t.is(await read(store, key), 'x');
  });

  test('a count and a survey whose caller has gone end by its signal, before they begin and in the middle', async (t) => {
    const store = open();
    const prefix = freshPrefix();
    for (const name of ['a', 'b', 'c', 'd', 'e']) await store.put(`${prefix}input/${name}`, chunks('x'), options);
    const gone = AbortSignal.abort();
    for (const count of [
      () => store.count(prefix, gone),
      () => store.countKey(`${prefix}input/a`, gone),
      () => Array.fromAsync(store.survey(prefix, gone)),
    ]) {
      t.is((await t.throwsAsync(count))?.name, 'AbortError');
    }
    const going = new AbortController();
    const survey = async () => {
      for await (const _ of store.survey(prefix, going.signal)) going.abort();
    };
    // What is told in one page has ended by then.
    const pages = (await Array.fromAsync(store.survey(prefix))).length;
    if (pages > 1) t.is((await t.throwsAsync(survey))?.name, 'AbortError');
    else await t.notThrowsAsync(survey);
  });

  test('list goes on after a key, in the order of bytes, and shows each object once', async (t) => {
    const store = open();
    const prefix = freshPrefix();
    const names = ['a', 'a-b', 'a/1', 'a/2', 'b', 'Z'];
    for (const entry of names) await store.put(`${prefix}x/${entry === 'a' ? 'a0' : entry}`, chunks(entry), options);
    const seen: string[] = [];
    let after: string | undefined;
    for (let first = true; first || after !== undefined; first = false) {
      const page = await store.list(prefix, { after, limit: 2 });
      seen.push(...page.objects.map(({ key }) => key.slice(prefix.length + 2)));
      after = page.next;
    }
    t.deepEqual(seen, ['Z', 'a-b', 'a/1', 'a/2', 'a0', 'b']);
  });

  test('removePrefix takes exactly its prefix: 1 is no prefix of 10', async (t) => {
    const store = open();
    const root = freshPrefix();
    await store.put(`${root}1/a`, chunks('one'), options);
    await store.put(`${root}10/a`, chunks('ten'), options);
    t.like(await store.removePrefix(`${root}1/`, { limit: 100 }), {
      objects: 1,
      bytes: 3,
      failures: [],
      progress: 'COMPLETE',
    });
    t.deepEqual(await store.count(`${root}1/`), empty);
    t.is(await read(store, `${root}10/a`), 'ten');
  });

  test('survey tells what removePrefix would take: versions, and uploads that are open', async (t) => {
    const store = open();
    const prefix = freshPrefix();
    for (const text of ['1', '22']) await store.put(`${prefix}input/a`, chunks(text), options);
    const [begun, removed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const body = (async function* () {
      yield Buffer.from('x');
      begun.resolve();
      await removed.promise;
      yield Buffer.from('y');
    })();
    const put = t.throwsAsync(store.put(`${prefix}output/b`, body, options));
    await begun.promise;
    const items = (await Array.fromAsync(store.survey(prefix))).flat();
    const told = items.map(({ kind, key }) => `${kind} ${key.slice(prefix.length)}`).toSorted();
    t.deepEqual(told, ['UPLOAD output/b', ...Array.from({ length: isVersioned ? 2 : 1 }, () => 'VERSION input/a')]);
    t.deepEqual(await store.folders(prefix), ['input', 'output']);
    await store.removePrefix(prefix, { limit: 100 });
    removed.resolve();
    await put;
    t.deepEqual((await Array.fromAsync(store.survey(prefix))).flat(), []);
    t.deepEqual(await store.folders(prefix), []);
  });

  test('removeKey takes everything under exactly its key: versions, open uploads, and no neighbour', async (t) => {
    const store = open();
    const prefix = freshPrefix();
    const key = `${prefix}input/a`;
    for (const text of ['1', '22']) await store.put(key, chunks(text), options);
    await store.put(`${key}b`, chunks('neighbour'), options);
    const [begun, removed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const body = (async function* () {
      yield Buffer.from('x');
      begun.resolve();
      await removed.promise;
      yield Buffer.from('y');
    })();
    const put = t.throwsAsync(store.put(key, body, options));
    await begun.promise;
    const versions = isVersioned ? 2 : 1;
    t.like(await store.countKey(key), { versions, uploads: 1 });
    let [objects, uploads] = [0, 0];
    for (let progress = 'PARTIAL'; progress === 'PARTIAL'; ) {
      const removal = await store.removeKey(key, { limit: 1 });
      t.true(removal.objects + removal.uploads <= 1, 'the limit is a promise');
      [objects, uploads, progress] = [objects + removal.objects, uploads + removal.uploads, removal.progress];
    }
    t.deepEqual([objects, uploads], [versions, 1]);
    removed.resolve();
    await put;
    t.deepEqual(await store.countKey(key), empty);
    t.is(await read(store, `${key}b`), 'neighbour');
    t.like(await store.removeKey(key, { limit: 1 }), { objects: 0, uploads: 0, progress: 'COMPLETE' });
  });

  test('removePrefix takes old versions too, and answers PARTIAL at its limit', async (t) => {
    const store = open();
    const prefix = freshPrefix();
    for (const round of ['1', '22']) {
      for (const entry of ['a', 'b', 'c', 'd', 'e']) await store.put(`${prefix}x/${entry}`, chunks(round), options);
    }
    const versions = isVersioned ? 10 : 5;
    t.is((await store.count(prefix)).versions, versions);
    let removed = 0;
    // The limit is a promise: between two calls the caller saves what was done.
    for (let progress = 'PARTIAL'; progress === 'PARTIAL'; ) {
      const removal = await store.removePrefix(prefix, { limit: 3 });
      t.true(removal.objects <= 3);
      removed += removal.objects;
      progress = removal.progress;
    }
    t.is(removed, versions);
    t.deepEqual(await store.count(prefix), empty);
    t.like(await store.removePrefix(prefix, { limit: 3 }), { objects: 0, progress: 'COMPLETE' });
  });

  test('a key that could leave its place is a bug, and touches nothing', async (t) => {
    const store = open();
    for (const key of ['../x', 'a/../../b', 'a//b', '', '/a', 'a/', 'a\0b', 'a'.repeat(2_000)]) {
      await t.throwsAsync(store.put(key, chunks('x'), options), { instanceOf: TypeError }, key);
    }
    await t.throwsAsync(store.removePrefix('tenants', { limit: 1 }), { instanceOf: TypeError });
    await t.throwsAsync(store.count('tenants/acme'), { instanceOf: TypeError });
    await t.throwsAsync(store.removeKey('tenants/acme/', { limit: 1 }), { instanceOf: TypeError });
    await t.throwsAsync(store.countKey('../x'), { instanceOf: TypeError });
  });
}

/** AVA's own test function as a Declare. */
export const declaring =
  (test: TestFn<unknown>): Declare =>
  (title, body) =>
    test.serial(title, body);
