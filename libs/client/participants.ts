import type { KnownParticipant } from '#gen/lethe/run/v1/run_service_pb.ts';
import { type CallOptions, toTransport } from './call-options.ts';
import type { Services } from './services.ts';
import { everyItem, present } from './streams.ts';

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
    everyItem(async (page) => {
      const { participants, nextPageToken } = await services.run.listParticipants({ ...page }, toTransport(options));
      return { items: participants, nextPageToken };
    }),
  async confirm(name, { reason, ...options }) {
    const { participant } = await services.run.confirmParticipant({ name, reason }, toTransport(options));
    return present('participant', participant);
  },
  async retire(name, { reason, ...options }) {
    const { participant } = await services.run.retireParticipant({ name, reason }, toTransport(options));
    return present('participant', participant);
  },
});
