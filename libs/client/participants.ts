import type { KnownParticipant } from '#gen/lethe/run/v1/run_service_pb.ts';
import type { CallOptions } from './call-options.ts';
import type { Services } from './services.ts';
import { itemOf, listOf } from './streams.ts';

/** The participants that deletions of runs wait for. For platform. */
export interface Participants {
  /** Every participant that this installation has or had, by name. */
  list(options?: CallOptions): AsyncIterable<KnownParticipant>;
  /** Confirms that the data set from which it now answers is the right one. */
  confirm(name: string, options: CallOptions & { readonly reason: string }): Promise<KnownParticipant>;
  /** Takes a participant out of all cascades whose service is gone together with its data. */
  retire(name: string, options: CallOptions & { readonly reason: string }): Promise<KnownParticipant>;
}

/** Makes `lethe.participants`. */
export const makeParticipants = (services: Services): Participants => ({
  list: (options = {}) =>
    listOf('participants', options, (request, call) => services.run.listParticipants(request, call)),
  confirm: (name, options) =>
    itemOf('participant', options, (request, call) => services.run.confirmParticipant({ name, ...request }, call)),
  retire: (name, options) =>
    itemOf('participant', options, (request, call) => services.run.retireParticipant({ name, ...request }, call)),
});
