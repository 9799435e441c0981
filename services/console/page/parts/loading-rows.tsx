import { Skeleton, Stack, VisuallyHidden } from '@mantine/core';

/** Stands where rows will be. */
export const LoadingRows = ({ rows = 6 }: { readonly rows?: number }) => (
  <Stack gap="sm" py="xs" role="status" aria-busy="true">
    <VisuallyHidden>Loading</VisuallyHidden>
    {Array.from({ length: rows }, (_, row) => (
      // biome-ignore lint/suspicious/noArrayIndexKey: the rows are all alike.
      <Skeleton key={row} h={28} />
    ))}
  </Stack>
);
