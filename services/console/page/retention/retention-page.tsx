import { Autocomplete, Group, Tabs } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { EmptyNote } from '../parts/empty-note.tsx';
import { PageHeader } from '../parts/page-header.tsx';
import type { PageProps } from '../parts/page-props.ts';
import { retention } from '../rpc.ts';
import { useSession } from '../session.ts';
import { CatalogueTab } from './catalogue-tab.tsx';
import { PlansTab } from './plans-tab.tsx';
import { PurgeDrawer } from './purge-drawer.tsx';
import { PurgesTab } from './purges-tab.tsx';
import { StopBanner, StopButton } from './stop-switch.tsx';
import { TenantsTab } from './tenants-tab.tsx';
import { WindowsTab } from './windows-tab.tsx';

/** The tabs of the page, by their names in the address. */
export const RETENTION_TABS = ['windows', 'purges', 'plans', 'tenants', 'catalogue'] as const;

/** What the address says about this page. */
export interface RetentionSearch {
  readonly tab?: (typeof RETENTION_TABS)[number] | undefined;
  /** For platform operators, who may look at any tenant. */
  readonly tenant?: string | undefined;
  /** The purge that is shown. */
  readonly purge?: string | undefined;
}

/** How long data is kept, what would change that, and the purges that remove the rest. */
export function RetentionPage({ search, onSearch }: PageProps<RetentionSearch>) {
  const session = useSession();
  const isPlatform = session.role === 'platform';
  const tab = search.tab ?? 'windows';
  const tenantId = (isPlatform ? search.tenant : undefined) ?? session.tenant ?? '';
  const showPurge = (purge: string) => onSearch({ ...search, tab: 'purges', purge });
  const forPlatform = <EmptyNote>Only platform operators see this.</EmptyNote>;
  return (
    <>
      <PageHeader
        title="Retention"
        description="How long data is kept, and the purges that remove what is no longer kept."
        actions={<StopButton />}
      />
      <StopBanner />
      <Tabs
        value={tab}
        keepMounted={false}
        onChange={(value) => onSearch({ ...search, tab: RETENTION_TABS.find((one) => one === value) })}
      >
        <Tabs.List mb="md">
          <Tabs.Tab value="windows">Windows</Tabs.Tab>
          <Tabs.Tab value="purges">Purges</Tabs.Tab>
          <Tabs.Tab value="plans">Plans</Tabs.Tab>
          <Tabs.Tab value="tenants">Tenants</Tabs.Tab>
          <Tabs.Tab value="catalogue">Catalogue</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="windows">
          {isPlatform && <TenantPicker tenantId={tenantId} onTenant={(tenant) => onSearch({ ...search, tenant })} />}
          {tenantId ? (
            <WindowsTab tenantId={tenantId} onPurge={showPurge} />
          ) : (
            <EmptyNote>Choose a tenant to see what is kept of it.</EmptyNote>
          )}
        </Tabs.Panel>
        <Tabs.Panel value="purges">
          <PurgesTab tenantId={isPlatform ? (search.tenant ?? '') : ''} onPurge={showPurge} />
        </Tabs.Panel>
        <Tabs.Panel value="plans">
          <PlansTab />
        </Tabs.Panel>
        <Tabs.Panel value="tenants">
          {isPlatform ? <TenantsTab onTenant={(tenant) => onSearch({ tab: 'windows', tenant })} /> : forPlatform}
        </Tabs.Panel>
        <Tabs.Panel value="catalogue">{isPlatform ? <CatalogueTab /> : forPlatform}</Tabs.Panel>
      </Tabs>
      {search.purge && <PurgeDrawer purgeId={search.purge} onClose={() => onSearch({ ...search, purge: undefined })} />}
    </>
  );
}

interface TenantPickerProps {
  readonly tenantId: string;
  readonly onTenant: (tenantId: string | undefined) => void;
}

/** Takes the name of a tenant: one of those with a plan, or any other that is typed. */
function TenantPicker({ tenantId, onTenant }: TenantPickerProps) {
  const [text, setText] = useState(tenantId);
  const plans = useQuery({
    queryKey: ['tenant-names'],
    queryFn: async ({ signal }) => (await retention.listTenantPlans({ pageSize: 200 }, { signal })).tenantPlans,
  });
  return (
    <Group mb="md">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          onTenant(text.trim() || undefined);
        }}
      >
        <Autocomplete
          label="Tenant"
          w={240}
          limit={20}
          value={text}
          onChange={setText}
          onOptionSubmit={(tenant) => onTenant(tenant)}
          onBlur={() => text.trim() !== tenantId && onTenant(text.trim() || undefined)}
          data={(plans.data ?? []).map((plan) => plan.tenantId)}
        />
      </form>
    </Group>
  );
}
