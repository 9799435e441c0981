import { create, type MessageInitShape, type MessageShape, toBinary } from '@bufbuild/protobuf';
import { type RunSchema, RunStepSchema } from '#gen/lethe/run/v1/run_pb.ts';
import { WatchRunResponseSchema } from '#gen/lethe/run/v1/run_service_pb.ts';
import { FRAME_BYTES, MAX_PAGE_BYTES } from '#libs/grpc/fit-page.ts';
import type { RunSighting } from '../../use-cases/watch-run.ts';
import { toRunMessage, toStepMessage } from './messages.ts';

type WatchMessage = MessageShape<typeof WatchRunResponseSchema>;

/**
 * What was seen of a run as one message, or as several where it does not fit one: the steps, and at last the run whole.
 * A run and a step fit a message each, since what they may hold is bounded when it is recorded.
 */
export function* toWatchMessages({ run, steps, isWhole }: RunSighting): Iterable<WatchMessage> {
  const whole = toRunMessage(run);
  const { input: _input, output: _output, ...bare } = whole;
  let part: MessageShape<typeof RunStepSchema>[] = [];
  let bytes = sizeOf(bare);
  for (const step of steps) {
    const message = create(RunStepSchema, toStepMessage(step));
    const size = toBinary(RunStepSchema, message).byteLength + FRAME_BYTES;
    if (part.length > 0 && bytes + size > MAX_PAGE_BYTES) {
      yield create(WatchRunResponseSchema, { run: bare, steps: part, moreFollows: true });
      part = [];
      bytes = sizeOf(bare);
    }
    part.push(message);
    bytes += size;
  }
  const fits = part.length === 0 || bytes - sizeOf(bare) + sizeOf(whole) <= MAX_PAGE_BYTES;
  if (!isWhole || !fits) yield create(WatchRunResponseSchema, { run: bare, steps: part, moreFollows: true });
  if (isWhole) yield create(WatchRunResponseSchema, { run: whole, steps: fits ? part : [] });
}

const sizeOf = (run: MessageInitShape<typeof RunSchema>): number =>
  toBinary(WatchRunResponseSchema, create(WatchRunResponseSchema, { run })).byteLength;
