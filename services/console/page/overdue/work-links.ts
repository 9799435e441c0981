import { ParkedWorkKind, WorkKind } from '#gen/lethe/status/v1/status_service_pb.ts';
import { linkToReceipt } from '../deletions/deletion-client.ts';
import type { ServiceName } from '../rpc.ts';

const linkToRun = (id: string) => ({ to: '/runs/$id', params: { id } }) as const;
const linkToPurge = (purge: string) => ({ to: '/retention', search: { tab: 'purges', purge } }) as const;
const kindOf = (service: ServiceName) => (service === 'job' ? 'job' : 'run');

/** The page that shows the oldest work of a kind. */
export function linkToWork(service: ServiceName, kind: WorkKind, id: string) {
  if (kind === WorkKind.DELETION) return linkToReceipt(id, kindOf(service));
  if (kind === WorkKind.BULK_DELETION) return linkToReceipt(id, `${kindOf(service)}s`);
  if (kind === WorkKind.UPLOAD) return { to: '/jobs', search: { job: id } } as const;
  return kind === WorkKind.PURGE ? linkToPurge(id) : linkToRun(id);
}

/** The page on which parked work is set going again. */
export function linkToParked(service: ServiceName, kind: ParkedWorkKind, id: string) {
  if (kind === ParkedWorkKind.DELETION) return linkToReceipt(id, kindOf(service));
  return kind === ParkedWorkKind.COMPENSATION ? linkToRun(id) : linkToPurge(id);
}

/** Where work is shown. */
export type WorkPage = ReturnType<typeof linkToWork> | ReturnType<typeof linkToParked>;
