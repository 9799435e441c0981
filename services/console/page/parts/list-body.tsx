import type { ReactNode } from 'react';
import { ErrorAlert } from './error-alert.tsx';
import { LoadingRows } from './loading-rows.tsx';
import { MorePages } from './more-pages.tsx';

interface ListBodyProps {
  readonly query: Parameters<typeof MorePages>[0]['query'] & {
    readonly isPending: boolean;
    readonly isError: boolean;
    readonly data: unknown;
    refetch(): unknown;
  };
  /** How many rows there are. */
  readonly shown: number;
  /** Shown where there are none. */
  readonly empty: ReactNode;
  /** The rows. */
  readonly children: ReactNode;
}

/** A list that comes in pages: loading, failed, empty, or its rows and what leads to the next page. */
export function ListBody({ query, shown, empty, children }: ListBodyProps) {
  if (query.isPending) return <LoadingRows />;
  if (query.isError && query.data === undefined) return <ErrorAlert error={query.error} onRetry={query.refetch} />;
  if (shown === 0 && !query.hasNextPage) return empty;
  return (
    <>
      {children}
      <MorePages query={query} shown={shown} />
    </>
  );
}
