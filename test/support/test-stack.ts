import { setTimeout as delay } from 'node:timers/promises';
import { type Code, ConnectError } from '@connectrpc/connect';
import { makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import {
  prepareStack,
  SERVICE_NAMES,
  type ServiceName,
  type Stack,
  type StackOptions,
  startStack,
} from '#deploy/local/stack.ts';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { poolerOfThisFile } from './pooler.ts';
import { bundleOf } from './programs.ts';
import { copyTemplate, type TemplateFolder } from './template-folder.ts';

/** A stack in a folder of its own that leaves nothing behind. */
export type TestStack = Stack & { dispose(): Promise<void> };

/** What a stack of these services is before the first of them starts: keys, and databases that are migrated. */
const prepared = (services: readonly ServiceName[]): TemplateFolder => ({
  name: `stack-${services.join('-')}`,
  sources: [
    'deploy/local/postgres-server.ts',
    'deploy/local/stack.ts',
    'libs/auth/keys.ts',
    'libs/auth/lethe-keys.ts',
    'libs/postgres/migrate.ts',
    'libs/postgres/provision.ts',
    ...services.map((name) => `services/${name}/adapters/postgres/migrations/index.ts`),
  ],
  make: (folder) => prepareStack(folder, services, bundleOf),
});

/** Starts real processes on free ports for the tests of one file. */
export async function startTestStack(
  options: Pick<
    StackOptions,
    | 'services'
    | 'userTokenSeconds'
    | 'env'
    | 'envOf'
    | 'foreignParticipants'
    | 'foreignOwners'
    | 'clientTls'
    | 'console'
    | 'consoleEnv'
    | 'provider'
    | 'fileOf'
  > & {
    /** Runs the services' own files, as a deployment does, rather than bundles of them, which start faster. */
    readonly fromSources?: boolean;
  } = {},
): Promise<TestStack> {
  const { path: folder, remove } = await makeTemporaryFolder('lethe-test-stack-');
  try {
    // Other programs than these sources have a schema of their own.
    const isPrepared = options.fileOf === undefined;
    if (isPrepared) await copyTemplate(prepared(options.services ?? SERVICE_NAMES), folder);
    const pooler = await poolerOfThisFile();
    const stack = await startStack({
      folder,
      throwaway: true,
      isPrepared,
      ports: 'free',
      onGivingUp: () => undefined,
      ...(pooler ? { startPooler: pooler } : {}),
      ...(options.fromSources ? {} : { fileOf: bundleOf }),
      ...options,
    });
    return {
      ...stack,
      async dispose() {
        await stack.stop();
        await remove();
      },
    };
  } catch (error) {
    await remove();
    throw error;
  }
}

/** What a refused call told: code, reason, sentence and the details' bytes, for comparing two refusals whole. */
export interface Refusal {
  readonly code: Code;
  readonly reason: string | undefined;
  readonly message: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly details: readonly unknown[];
}

/** The refusal of a call; throws when it went well. */
export async function refusalOf(call: Promise<unknown>): Promise<Refusal> {
  try {
    await call;
  } catch (error) {
    const refused = ConnectError.from(error);
    const info = refused.findDetails(ErrorInfoSchema)[0];
    return {
      code: refused.code,
      reason: info?.reason,
      message: refused.rawMessage,
      metadata: info?.metadata ?? {},
      details: refused.details,
    };
  }
  throw new Error('the call was not refused');
}

/** Polls until it is true; throws when it is not by the deadline, which allows for a machine with much else to do. */
export async function until(what: string, isTrue: () => Promise<boolean>, deadlineMs = 60_000): Promise<void> {
  let cause: unknown;
  for (const deadline = performance.now() + deadlineMs; performance.now() < deadline; ) {
    const isSo = await isTrue().catch((error: unknown) => {
      cause = error;
      return false;
    });
    if (isSo) return;
    await delay(25);
  }
  throw new Error(`it did not come to pass in ${deadlineMs} ms: ${what}`, { cause });
}
