import { Alert, Button, Group, Modal, NumberInput, Stack, Switch, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { IconAlertTriangle } from '@tabler/icons-react';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import type { ExecutionPolicy } from '#gen/lethe/retention/v1/retention_pb.ts';
import { ErrorAlert, reasonOf } from '../parts/error-alert.tsx';
import { formatCount, plural } from '../parts/format.ts';
import { ForecastTable } from '../retention/forecast-table.tsx';
import { retention } from '../rpc.ts';
import { POLICY_KEY, readPolicy } from './policy.ts';

interface PolicyDialogProps {
  readonly policy: ExecutionPolicy | undefined;
  readonly onClose: () => void;
}

/** Sets the tenant's policy, once it has shown what the next purge would then take. */
export function PolicyDialog({ policy: opened, onClose }: PolicyDialogProps) {
  const queries = useQueryClient();
  const [base, setBase] = useState(opened);
  const [days, setDays] = useState<number | string>(opened?.retentionDays ?? 90);
  const [floor, setFloor] = useState<number | string>(Number(opened?.minExecutionsToKeep ?? 100n));
  const [stale, setStale] = useState<number | string>(opened?.staleAfterDays ?? 30);
  const [isEnabled, setEnabled] = useState(opened?.isEnabled ?? true);
  const [changed, setChanged] = useState<ExecutionPolicy | null>();
  const isComplete = Number(days) > 0 && floor !== '' && stale !== '';
  const request = () => ({
    retentionDays: Number(days),
    isEnabled,
    minExecutionsToKeep: BigInt(floor || 0),
    staleAfterDays: Number(stale),
    etag: base?.etag ?? '',
  });
  const whenRefused = async (error: Error) => {
    if (reasonOf(error) === 'ETAG_MISMATCH') setChanged(await readPolicy());
  };
  const preview = useMutation({
    mutationFn: () => retention.upsertExecutionPolicy({ ...request(), validateOnly: true }),
    onError: whenRefused,
  });
  const save = useMutation({
    mutationFn: () => retention.upsertExecutionPolicy(request()),
    onError: whenRefused,
    onSuccess: async () => {
      await Promise.all([POLICY_KEY, ['retention-windows']].map((queryKey) => queries.invalidateQueries({ queryKey })));
      notifications.show({ message: 'The policy was saved.' });
      onClose();
    },
  });
  /** A preview is of what was previewed, and of nothing that was typed since. */
  const edit =
    <T,>(set: (value: T) => void) =>
    (value: T) => {
      set(value);
      preview.reset();
      save.reset();
    };
  const error = save.error ?? preview.error;
  return (
    <Modal opened onClose={onClose} title="Retention policy of executions" size="lg">
      <Stack>
        <NumberInput
          label="Days to keep"
          data-autofocus
          min={1}
          max={36_500}
          allowDecimal={false}
          value={days}
          onChange={edit(setDays)}
        />
        <NumberInput
          label="Always keep the newest"
          description="So many stay whatever their age."
          min={0}
          allowDecimal={false}
          thousandSeparator=" "
          value={floor}
          onChange={edit(setFloor)}
        />
        <NumberInput
          label="Days after which a running execution goes too"
          description="Counted from the end of its window."
          min={0}
          max={36_500}
          allowDecimal={false}
          value={stale}
          onChange={edit(setStale)}
        />
        <Switch
          label="Remove expired executions"
          checked={isEnabled}
          onChange={(event) => edit(setEnabled)(event.currentTarget.checked)}
        />
        {changed !== undefined ? (
          <Alert
            color="orange"
            variant="light"
            title="The policy was changed meanwhile"
            icon={<IconAlertTriangle size={18} aria-hidden />}
          >
            <Text size="sm">
              {changed
                ? `Now ${plural(changed.retentionDays, 'day')}, at least the newest ${formatCount(changed.minExecutionsToKeep)}${changed.isEnabled ? '' : ', switched off'}.`
                : 'It was deleted.'}
            </Text>
            <Button
              size="xs"
              mt="xs"
              onClick={() => {
                setBase(changed ?? undefined);
                setChanged(undefined);
                preview.reset();
                save.reset();
              }}
            >
              Go on from there
            </Button>
          </Alert>
        ) : (
          error && <ErrorAlert error={error} />
        )}
        {preview.isSuccess && (
          <section aria-label="Preview">
            <Text size="sm" fw={600}>
              Nothing has been changed yet. With this policy, the next purge would take:
            </Text>
            <ForecastTable forecasts={preview.data.forecast ? [preview.data.forecast] : []} />
          </section>
        )}
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            Cancel
          </Button>
          <Button
            variant="light"
            disabled={!isComplete || changed !== undefined}
            loading={preview.isPending}
            onClick={() => preview.mutate()}
          >
            Preview
          </Button>
          <Button
            disabled={!preview.isSuccess || changed !== undefined}
            loading={save.isPending}
            onClick={() => save.mutate()}
          >
            Save
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
