import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { OldestWork, ParkedWork } from '#gen/lethe/status/v1/status_service_pb.ts';
import { type CallOptions, splitCall } from './call-options.ts';
import { type Addresses, SERVICE_NAMES, type ServiceName, type Services } from './services.ts';
import { everyItem, mergeSorted } from './streams.ts';

/** Whose parked work to list. */
export interface ParkedQuery extends CallOptions {
  /** By default every service whose address is set. */
  readonly services?: readonly ServiceName[];
  /** For platform: the tenant. Default: the credential's, or every tenant. */
  readonly tenantId?: string;
}

/** Work that waits for a person, and the service that it waits in. */
export interface ServiceParkedWork {
  readonly service: ServiceName;
  readonly work: ParkedWork;
}

/** The oldest work of its kind in a service, and how old it is by the service's database. */
export interface ServiceOldestWork {
  readonly service: ServiceName;
  readonly work: OldestWork;
  readonly ageSeconds: number;
}

/** What was given up, is held, or is not done yet in the services. */
export interface Parked {
  /**
   * The parked work of the services in one list, by tenant, and of a tenant what was made first. For admins and
   * platform. When one of the services fails, its LetheError is thrown: a list never misses a service silently.
   */
  list(query?: ParkedQuery): AsyncIterable<ServiceParkedWork>;
  /** The oldest work of each kind that is not done, oldest first. Whose, and what fails, is as of `list`. */
  oldest(query?: ParkedQuery): Promise<readonly ServiceOldestWork[]>;
}

/** Makes `lethe.parked`. */
export const makeParked = (services: Services, addresses: Addresses): Parked => ({
  list({ services: wanted, ...options } = {}) {
    const { request, call } = splitCall(options);
    return mergeSorted(
      named(wanted, addresses).map((service) =>
        everyItem(async (page) => {
          const { items, nextPageToken } = await services.status[service].listParkedWork({ ...page, ...request }, call);
          return { items: items.map((work) => ({ service, work })), nextPageToken };
        }),
      ),
      (a, b) => keyOf(a) < keyOf(b),
    );
  },

  async oldest({ services: wanted, ...options } = {}) {
    const { request, call } = splitCall(options);
    const found = await Promise.all(
      named(wanted, addresses).map(async (service) => {
        const { items, databaseTime } = await services.status[service].listOldestWork(request, call);
        const now = databaseTime ? timestampMs(databaseTime) : 0;
        return items.map((work) => ({
          service,
          work,
          ageSeconds: work.createTime ? Math.max(0, (now - timestampMs(work.createTime)) / 1_000) : 0,
        }));
      }),
    );
    return found.flat().toSorted((a, b) => b.ageSeconds - a.ageSeconds);
  },
});

/** With no address at all, asking the first service says which setting is missing. */
function named(wanted: readonly ServiceName[] | undefined, addresses: Addresses): readonly ServiceName[] {
  const names = wanted ?? SERVICE_NAMES.filter((name) => addresses[name]);
  return names.length > 0 ? names : SERVICE_NAMES.slice(0, 1);
}

const keyOf = ({ work: { tenantId, id } }: ServiceParkedWork): string => `${tenantId} ${id}`;
