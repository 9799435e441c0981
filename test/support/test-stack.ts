import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Code, ConnectError } from '@connectrpc/connect';
import { type Stack, type StackOptions, startStack } from '#deploy/local/stack.ts';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';

/** A stack in a folder of its own that leaves nothing behind. */
export type TestStack = Stack & { dispose(): Promise<void> };

/** Starts real processes on free ports for the tests of one file. */
export async function startTestStack(
  options: Pick<StackOptions, 'services' | 'env' | 'envOf' | 'foreignParticipants' | 'foreignOwners'> = {},
): Promise<TestStack> {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-stack-'));
  await chmod(folder, 0o755);
  try {
    const stack = await startStack({ folder, throwaway: true, ports: 'free', onGivingUp: () => undefined, ...options });
    return {
      ...stack,
      async dispose() {
        await stack.stop();
        await rm(folder, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
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

/** Polls until it is true; throws when it is not by the deadline. */
export async function until(what: string, isTrue: () => Promise<boolean>, deadlineMs = 20_000): Promise<void> {
  for (const deadline = performance.now() + deadlineMs; performance.now() < deadline; ) {
    if (await isTrue().catch(() => false)) return;
    await delay(25);
  }
  throw new Error(`it did not come to pass in ${deadlineMs} ms: ${what}`);
}
