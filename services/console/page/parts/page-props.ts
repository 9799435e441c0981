/** What a page is given: what its address says after `?`, how to change that, and the id in its path. */
export interface PageProps<Search = unknown> {
  readonly search: Search;
  readonly onSearch: (search: Search) => void;
  /** Empty for a page without an id. */
  readonly id: string;
}
