import { Center, Loader } from '@mantine/core';
import {
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
  redirect,
  useNavigate,
  useParams,
  useSearch,
} from '@tanstack/react-router';
import type { ReactNode } from 'react';
import { AppShell } from './app-shell.tsx';
import { EmptyNote } from './parts/empty-note.tsx';
import { ErrorAlert } from './parts/error-alert.tsx';
import { PageHeader } from './parts/page-header.tsx';

// biome-ignore lint/suspicious/noExplicitAny: a page names the type of its own search.
type AnyPage = (props: any) => ReactNode;

/** A page in a file of its own, which is loaded when somebody goes there, or is about to. */
function lazyPage(load: () => Promise<AnyPage>) {
  const Page = lazyRouteComponent(async () => ({ Page: await load() }), 'Page');
  // biome-ignore lint/correctness/noComponentHookFactories: made once a route, when this module is loaded.
  const Routed = () => {
    const search = useSearch({ strict: false });
    const { id = '' } = useParams({ strict: false });
    const navigate = useNavigate();
    // The same place of the history: a filter is no page of its own.
    const onSearch = (next: object) => void navigate({ to: '.', search: next as never, replace: true });
    return <Page key={id} search={search} onSearch={onSearch} id={id} />;
  };
  return Object.assign(Routed, Page.preload && { preload: Page.preload });
}

type Given = Record<string, unknown>;

const root = createRootRoute({
  component: AppShell,
  notFoundComponent: () => (
    <>
      <PageHeader title="No such page" />
      <EmptyNote>Nothing is at this address. The navigation leads to what there is.</EmptyNote>
    </>
  ),
});

const routes = [
  createRoute({
    getParentRoute: () => root,
    path: '/',
    beforeLoad: () => {
      throw redirect({ to: '/runs', replace: true });
    },
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/runs',
    validateSearch: (given: Given): Given => given,
    component: lazyPage(async () => (await import('./runs/runs-page.tsx')).RunsPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/runs/$id',
    component: lazyPage(async () => (await import('./run/run-page.tsx')).RunPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/jobs',
    validateSearch: (given: Given): Given => given,
    component: lazyPage(async () => (await import('./jobs/jobs-page.tsx')).JobsPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/deletions',
    validateSearch: (given: Given): Given => given,
    component: lazyPage(async () => (await import('./deletions/deletions-page.tsx')).DeletionsPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/deletions/$id',
    validateSearch: (given: Given): Given => given,
    component: lazyPage(async () => (await import('./receipt/receipt-page.tsx')).ReceiptPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/environments',
    validateSearch: (given: Given): Given => given,
    component: lazyPage(async () => (await import('./environments/environments-page.tsx')).EnvironmentsPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/incidents',
    validateSearch: (given: Given): Given => given,
    component: lazyPage(async () => (await import('./incidents/incidents-page.tsx')).IncidentsPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/incidents/$id',
    component: lazyPage(async () => (await import('./incident/incident-page.tsx')).IncidentPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/retention',
    validateSearch: (given: Given): Given => given,
    component: lazyPage(async () => (await import('./retention/retention-page.tsx')).RetentionPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/executions',
    validateSearch: (given: Given): Given => given,
    component: lazyPage(async () => (await import('./executions/executions-page.tsx')).ExecutionsPage),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/overdue',
    component: lazyPage(async () => (await import('./overdue/overdue-page.tsx')).OverduePage),
  }),
] as const;

/** The page's routes. */
export const router = createRouter({
  routeTree: root.addChildren(routes),
  defaultPreload: 'intent',
  scrollRestoration: true,
  defaultPendingComponent: () => (
    <Center h={240}>
      <Loader aria-label="Loading" />
    </Center>
  ),
  defaultErrorComponent: ({ error, reset }) => <ErrorAlert error={error} onRetry={reset} />,
});

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router;
  }
}
