import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { AuditEntry } from '#gen/lethe/audit/v1/audit_pb.ts';
import { type CallOptions, splitCall } from './call-options.ts';
import { type Addresses, SERVICE_NAMES, type ServiceName, type Services } from './services.ts';
import { everyItem, mergeSorted } from './streams.ts';

/** Which entries to list; what is absent matches every entry. */
export interface AuditQuery extends CallOptions {
  /** By default every service whose address is set. */
  readonly services?: readonly ServiceName[];
  /** For platform: the tenant. Default: the credential's, or the entries that belong to no tenant. */
  readonly tenantId?: string;
  readonly actor?: string;
  /** `call` are the refused calls. */
  readonly action?: string;
  readonly targetId?: string;
  /** Inclusive. */
  readonly afterTime?: Timestamp;
  /** Exclusive. */
  readonly beforeTime?: Timestamp;
}

/** An entry, and the service whose audit it is in. */
export interface ServiceAuditEntry {
  readonly service: ServiceName;
  readonly entry: AuditEntry;
}

/** The audits of the services. */
export interface Audit {
  /**
   * The entries of the services in one list, newest first. For admins and platform. When one of the services fails, its
   * LetheError is thrown: a list never misses a service without saying so.
   */
  list(query?: AuditQuery): AsyncIterable<ServiceAuditEntry>;
}

/** Makes `lethe.audit`. */
export const makeAudit = (services: Services, addresses: Addresses): Audit => ({
  list({ services: wanted = SERVICE_NAMES.filter((name) => addresses[name]), ...options } = {}) {
    const { request: filter, call } = splitCall(options);
    // With no address at all, asking the first service says which setting is missing.
    const names = wanted.length > 0 ? wanted : SERVICE_NAMES.slice(0, 1);
    return mergeSorted(
      names.map((service) =>
        everyItem(async (page) => {
          const { entries, nextPageToken } = await services[service].listAuditEntries({ ...page, filter }, call);
          return { items: entries.map((entry) => ({ service, entry })), nextPageToken };
        }),
      ),
      (a, b) => nanosOf(a) > nanosOf(b),
    );
  },
});

const nanosOf = ({ entry: { createTime } }: ServiceAuditEntry): bigint =>
  createTime ? createTime.seconds * 1_000_000_000n + BigInt(createTime.nanos) : 0n;
