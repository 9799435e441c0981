import { Button, Group, Modal, Select, Stack, Text, Textarea } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import type { TenantPlan } from '#gen/lethe/retention/v1/retention_pb.ts';
import { ErrorAlert, reasonOf } from '../parts/error-alert.tsx';
import { retention } from '../rpc.ts';
import { ForecastTable } from './forecast-table.tsx';

const NO_PLAN = '-';

interface TenantPlanDialogProps {
  readonly tenantId: string;
  readonly current: TenantPlan | undefined;
  /** The tenant's newest entry, which may not be in force yet. */
  readonly newest: TenantPlan | undefined;
  readonly onClose: () => void;
}

// Of a tenant that has none yet, by the contract of SetTenantPlan.
const ETAG_OF_NONE = '"0"';

/** Gives a tenant another plan, once it has shown what the next purge would then take. */
export function TenantPlanDialog({ tenantId, current, newest, onClose }: TenantPlanDialogProps) {
  const queries = useQueryClient();
  // As it was when the dialog opened: the etag is of what the person saw, not of what the page has read since.
  const [etag] = useState(newest?.etag ?? ETAG_OF_NONE);
  const [plan, setPlan] = useState(current?.planName ?? '');
  const [reason, setReason] = useState('');
  const [previewOf, setPreviewOf] = useState<string>();
  const plans = useQuery({
    queryKey: ['plans'],
    queryFn: async ({ signal }) => (await retention.listPlans({ pageSize: 200 }, { signal })).plans,
  });
  const request = () => ({
    tenantId,
    reason,
    etag,
    ...(plan === NO_PLAN ? { noPlan: true } : { planName: plan }),
  });
  const preview = useMutation({
    mutationFn: () => retention.setTenantPlan({ ...request(), validateOnly: true }),
    onSuccess: () => setPreviewOf(plan),
  });
  const save = useMutation({
    mutationFn: () => retention.setTenantPlan(request()),
    onSuccess: async () => {
      await invalidate();
      notifications.show({ message: 'The plan was changed.' });
      onClose();
    },
  });
  const invalidate = () =>
    Promise.all(
      ['tenant-plan', 'tenant-plan-history', 'tenant-plans', 'retention-windows', 'plans'].map((key) =>
        queries.invalidateQueries({ queryKey: [key] }),
      ),
    );
  const error = save.error ?? preview.error;
  const isStale = reasonOf(error) === 'ETAG_MISMATCH';
  const isPreviewed = previewOf === plan && preview.isSuccess;
  return (
    <Modal opened onClose={onClose} title={`Change the plan of ${tenantId}`} size="lg">
      <Stack>
        <Select
          label="Plan"
          data-autofocus
          allowDeselect={false}
          value={plan || null}
          onChange={(value) => {
            setPlan(value ?? '');
            preview.reset();
            save.reset();
          }}
          data={[
            ...(plans.data ?? []).map(({ name }) => ({ value: name, label: name })),
            { value: NO_PLAN, label: 'No plan: keep everything' },
          ]}
        />
        <Textarea
          label="Reason"
          description="For the tenant’s history and the audit."
          maxLength={500}
          autosize
          value={reason}
          onChange={(event) => setReason(event.currentTarget.value)}
        />
        {error && <ErrorAlert error={error} />}
        {isStale && (
          <Group>
            <Text size="sm">The plan was changed meanwhile, by somebody else.</Text>
            <Button
              size="xs"
              variant="default"
              onClick={async () => {
                await invalidate();
                onClose();
              }}
            >
              Show it as it is now
            </Button>
          </Group>
        )}
        {isPreviewed && <ForecastTable forecasts={preview.data.forecasts} />}
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            Cancel
          </Button>
          <Button variant="light" disabled={!plan} loading={preview.isPending} onClick={() => preview.mutate()}>
            Preview
          </Button>
          <Button disabled={!isPreviewed} loading={save.isPending} onClick={() => save.mutate()}>
            Change plan
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
