import { crashPoint } from '#libs/durable/crash-point.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { newId } from '#libs/kernel/id.ts';
import { actionRefused } from '../domain/errors.ts';
import {
  type Asset,
  assertActionGoesOn,
  type CreateJobAction,
  finishAction,
  type StepOutcome,
} from '../domain/step-action.ts';
import type { ArtifactIndex, StepAction, StepActions } from './ports.ts';
import type { StoreArtifact } from './store-artifact.ts';

/** Which step acts, and how. */
export interface ExecuteStepCommand {
  readonly tenantId: string;
  readonly runId: string;
  readonly step: string;
  readonly action: CreateJobAction;
  readonly signal: AbortSignal;
}

/**
 * Does the action `create-job` of a step once, however often it is asked for; undefined when it is not done yet and
 * must be asked for again. STEP_COMPENSATED, REQUEST_ID_REUSED, ACTION_REFUSED.
 */
export type ExecuteStep = (command: ExecuteStepCommand) => Promise<StepOutcome | undefined>;

const WAIT_MS = 2_000;
const POLL_MS = 50;
const ASSETS_AT_ONCE = 8;
const MAY_BE_ANOTHERS_DOING = new Set(['ACTION_REFUSED', 'JOB_NOT_FOUND', 'OPERATION_IN_PROGRESS', 'LEASE_LOST']);

/** Makes ExecuteStep. `maxBytes` bounds one asset; the uploads of its assets have a lease of `uploadLeaseMs`. */
export const makeExecuteStep =
  (
    actions: StepActions,
    artifacts: ArtifactIndex,
    storeArtifact: StoreArtifact,
    maxBytes: number,
    uploadLeaseMs: number,
    sleep: (ms: number) => Promise<void>,
  ): ExecuteStep =>
  async ({ tenantId, runId, step, action, signal }) => {
    const { displayName, taskNames, assets, state } = action;
    const tooLarge = assets.find(({ content }) => content.length > maxBytes);
    if (tooLarge) throw actionRefused(`Asset ${tooLarge.name} has more than the ${maxBytes} bytes of an artifact.`);
    const uploads = assets.map(({ name }) => ({ uploadId: newId(), name }));
    const order: StepAction = {
      tenantId,
      runId,
      step,
      displayName,
      taskNames,
      fingerprint: fingerprintOf(action),
      uploads,
      uploadLeaseMs,
    };
    const begun = await actions.begin(order, assertActionGoesOn);
    crashPoint('job.execute.after-intent');
    if (begun.outcome) return begun.outcome;
    const { jobId, isNew } = begun;

    const storeAsset = async ({ name, contentType, content }: Asset, begunUploadId?: string): Promise<void> => {
      if (begunUploadId === undefined && (await artifacts.get(tenantId, jobId, 'OUTPUT', name))) return;
      await storeArtifact({
        tenantId,
        jobId,
        kind: 'OUTPUT',
        name,
        contentType,
        leaseToken: undefined,
        ifAbsent: true,
        body: once(content),
        signal,
        begunUploadId,
        check: assertActionGoesOn,
      });
    };
    /** Stores an asset; an answer where the call ends with that one instead. */
    const storeOrWait = async (asset: Asset, uploadId: string | undefined): Promise<Answer | undefined> => {
      // Another call with this key may be at it, or one that died: its lease tells when it is this one's turn.
      for (let waited = 0; ; waited += POLL_MS) {
        try {
          await storeAsset(asset, waited === 0 ? uploadId : undefined);
          crashPoint('job.execute.between-objects');
          return undefined;
        } catch (error) {
          if (!(error instanceof DomainError && MAY_BE_ANOTHERS_DOING.has(error.reason))) throw error;
          // Done by another, removed, compensated: the beginning of a repetition tells which, or that it goes on.
          const { outcome } = await actions.begin(order, assertActionGoesOn);
          if (outcome || waited >= WAIT_MS) return { outcome };
          await sleep(POLL_MS);
        }
      }
    };
    let answer: Answer | undefined;
    let next = 0;
    let isGivenUp = false;
    const lane = async (): Promise<void> => {
      while (next < assets.length && answer === undefined && !isGivenUp) {
        const index = next++;
        try {
          const found = await storeOrWait(assets[index] as Asset, isNew ? uploads[index]?.uploadId : undefined);
          answer ??= found;
        } catch (error) {
          isGivenUp = true;
          throw error;
        }
      }
    };
    const lanes = Array.from({ length: Math.min(ASSETS_AT_ONCE, assets.length) }, lane);
    // Nothing goes on behind an answer.
    await Promise.allSettled(lanes);
    await Promise.all(lanes);
    if (answer) return answer.outcome;
    crashPoint('job.execute.after-objects');
    const outcome = await actions.finish(order, (job, now) => finishAction(job, state, now), {
      jobId,
      state,
      tasks: taskNames.length,
      assets: assets.map(({ name, content }) => ({ name, bytes: content.length })),
    });
    crashPoint('job.execute.after-outcome');
    return outcome;
  };

/** What a call answers before everything is stored: what another call has made of the action, or not yet anything. */
interface Answer {
  readonly outcome: StepOutcome | undefined;
}

const fingerprintOf = ({ assets, ...rest }: CreateJobAction): string =>
  fingerprint({
    action: 'create-job',
    ...rest,
    assets: assets.map(({ content, ...asset }) => ({ ...asset, content: Buffer.from(content).toString('base64') })),
  });

async function* once(content: Uint8Array): AsyncIterable<Uint8Array> {
  yield content;
}
