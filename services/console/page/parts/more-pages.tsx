import { Button, Group, Text } from '@mantine/core';
import { ErrorAlert } from './error-alert.tsx';
import { formatCount } from './format.ts';

interface MorePagesProps {
  readonly query: {
    readonly hasNextPage: boolean;
    readonly isFetchingNextPage: boolean;
    readonly isFetchNextPageError: boolean;
    readonly error: unknown;
    fetchNextPage(): unknown;
  };
  /** How many rows are shown. */
  readonly shown: number;
}

/** The foot of a list of pages: how many rows there are so far, and the next page. */
export function MorePages({ query, shown }: MorePagesProps) {
  const { hasNextPage, isFetchingNextPage, isFetchNextPageError, error, fetchNextPage } = query;
  return (
    <>
      {isFetchNextPageError && <ErrorAlert error={error} onRetry={fetchNextPage} />}
      <Group justify="center" gap="md" py="md">
        <Text size="xs" c="dimmed" role="status">
          {hasNextPage ? `The first ${formatCount(shown)} are shown` : `${formatCount(shown)} in all`}
        </Text>
        {hasNextPage && (
          <Button size="xs" variant="default" loading={isFetchingNextPage} onClick={() => fetchNextPage()}>
            Load more
          </Button>
        )}
      </Group>
    </>
  );
}
