import { Box, Button, Group, Select } from '@mantine/core';
import type { ReactNode } from 'react';
import { DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { FilterDay } from '../parts/filter-fields.tsx';
import { BulkButton } from './bulk-button.tsx';
import type { BulkFilter } from './bulk-clients.ts';

/** What the address says about a list that can be narrowed by state and time of creation. */
export interface MatchSearch {
  /** The name of a state, e.g. `FAILED`. */
  readonly state?: string | undefined;
  /** The first and the last day of creation, as YYYY-MM-DD in UTC. */
  readonly from?: string | undefined;
  readonly to?: string | undefined;
}

interface MatchFiltersProps<Search extends MatchSearch> {
  readonly search: Search;
  readonly onSearch: (search: Search) => void;
  /** The states that the list can be narrowed to, by name. */
  readonly states: readonly { readonly value: string; readonly label: string }[];
  /** The search as a filter of the service; undefined where nothing narrows the list. */
  readonly matching: BulkFilter | undefined;
  /** Something in the search cannot be looked for, so that nothing is matched. */
  readonly isOdd?: boolean;
  /** More fields, after the state. */
  readonly children: ReactNode;
}

/** Narrows a list of runs or jobs, and offers to delete all that match. */
export function MatchFilters<Search extends MatchSearch>(props: MatchFiltersProps<Search>) {
  const { search, onSearch, states, matching, isOdd = false, children } = props;
  return (
    <Group gap="xs" mb="sm" align="start">
      <Select
        aria-label="State"
        placeholder="Any state"
        clearable
        w={{ base: '100%', xs: 160 }}
        value={states.some(({ value }) => value === search.state) ? (search.state ?? null) : null}
        onChange={(value) => onSearch({ ...search, state: value ?? undefined })}
        data={states}
      />
      {children}
      <FilterDay
        label="Created from this day on (UTC)"
        word="From"
        value={search.from ?? ''}
        onChange={(from) => onSearch({ ...search, from: from || undefined })}
      />
      <FilterDay
        label="Created up to this day (UTC)"
        word="To"
        value={search.to ?? ''}
        onChange={(to) => onSearch({ ...search, to: to || undefined })}
      />
      {(matching || isOdd) && (
        <Button variant="subtle" color="gray" onClick={() => onSearch({} as Search)}>
          Clear
        </Button>
      )}
      {matching && !isOdd && (
        <Box ml="auto">
          <BulkButton matching={matching} firstMode={DeletionMode.PURGE} />
        </Box>
      )}
    </Group>
  );
}
