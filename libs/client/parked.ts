import type { ParkedWork } from '#gen/lethe/status/v1/status_service_pb.ts';
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

/** What was given up or is held in the services. */
export interface Parked {
  /**
   * The parked work of the services in one list, by tenant, and of a tenant what was made first. For admins and
   * platform. When one of the services fails, its LetheError is thrown: a list never misses a service silently.
   */
  list(query?: ParkedQuery): AsyncIterable<ServiceParkedWork>;
}

/** Makes `lethe.parked`. */
export const makeParked = (services: Services, addresses: Addresses): Parked => ({
  list({ services: wanted = SERVICE_NAMES.filter((name) => addresses[name]), ...options } = {}) {
    const { request, call } = splitCall(options);
    // With no address at all, asking the first service says which setting is missing.
    const names = wanted.length > 0 ? wanted : SERVICE_NAMES.slice(0, 1);
    return mergeSorted(
      names.map((service) =>
        everyItem(async (page) => {
          const { items, nextPageToken } = await services.status[service].listParkedWork({ ...page, ...request }, call);
          return { items: items.map((work) => ({ service, work })), nextPageToken };
        }),
      ),
      (a, b) => keyOf(a) < keyOf(b),
    );
  },
});

const keyOf = ({ work: { tenantId, id } }: ServiceParkedWork): string => `${tenantId} ${id}`;
