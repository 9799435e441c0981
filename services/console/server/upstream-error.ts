import { Code, ConnectError } from '@connectrpc/connect';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { toConnectError } from '#libs/grpc/status.ts';
import { dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import type { UpstreamName } from './connect-upstreams.ts';

/**
 * The error of a call to a service, as the console's caller gets to know it: as the service told it, and
 * DEPENDENCY_UNAVAILABLE where it told nothing because it could not be reached.
 */
export function tellUpstreamError(name: UpstreamName, error: unknown): ConnectError {
  const failed = ConnectError.from(error);
  const isTold = failed.findDetails(ErrorInfoSchema).length > 0;
  if (failed.code !== Code.Unavailable || isTold) return failed;
  // What grpc-js says about it has addresses in it.
  return toConnectError(dependencyUnavailable(`${name} service`, failed));
}
