import type { KnownParticipant } from '#gen/lethe/run/v1/run_service_pb.ts';
import type { Services } from './services.ts';
import { everyItem, present } from './streams.ts';

/** The participants that deletions of runs wait for. For platform. */
export interface Participants {
  /** Every participant that this installation has or had, by name. */
  list(): AsyncIterable<KnownParticipant>;
  /** Confirms that the data set from which it now answers is the right one. */
  confirm(name: string, options: { readonly reason: string }): Promise<KnownParticipant>;
  /** Takes a participant out of all cascades whose service is gone together with its data. */
  retire(name: string, options: { readonly reason: string }): Promise<KnownParticipant>;
}

/** Makes `lethe.participants`. */
export const makeParticipants = (services: Services): Participants => ({
  list: () =>
    everyItem(async (page) => {
      const { participants, nextPageToken } = await services.run.listParticipants({ ...page });
      return { items: participants, nextPageToken };
    }),
  async confirm(name, { reason }) {
    return present('participant', (await services.run.confirmParticipant({ name, reason })).participant);
  },
  async retire(name, { reason }) {
    return present('participant', (await services.run.retireParticipant({ name, reason })).participant);
  },
});
