import { Alert, Button, Divider, Group, Modal, NumberInput, Select, Stack, Text, Textarea } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { IconAlertTriangle } from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { type Plan, type PlanWindow, WindowKind } from '#gen/lethe/retention/v1/retention_pb.ts';
import { ErrorAlert, reasonOf } from '../parts/error-alert.tsx';
import { RelativeTime } from '../parts/relative-time.tsx';
import { retention } from '../rpc.ts';
import { ForecastTable } from './forecast-table.tsx';
import { planWindowLabel, subjectLabel } from './retention-words.tsx';

/** What is typed for one subject. */
interface Draft {
  readonly kind: WindowKind;
  readonly days: number | string;
  readonly minToKeep: number | string;
}

const KINDS = [
  { value: String(WindowKind.DAYS), label: 'A number of days' },
  { value: String(WindowKind.KEEP_ALL), label: 'Everything' },
  { value: String(WindowKind.NOT_APPLICABLE), label: 'Not part of the plan' },
];
const MAX_DAYS = 36_500;

const draftOf = (window: PlanWindow | undefined): Draft => ({
  kind: window?.kind ?? WindowKind.KEEP_ALL,
  days: window?.retentionDays ?? '',
  minToKeep: Number(window?.minToKeep ?? 0n),
});

const isSame = (a: Draft, b: Draft): boolean =>
  a.kind === b.kind &&
  (a.kind !== WindowKind.DAYS || (Number(a.days) === Number(b.days) && Number(a.minToKeep) === Number(b.minToKeep)));

/**
 * Changes the windows of a plan. What the next purge would then take is counted first, and the change can be saved only
 * as it was counted. Where the plan was changed meanwhile, says what changed and goes on from there.
 */
export function PlanDialog({ plan: opened, onClose }: { readonly plan: Plan; readonly onClose: () => void }) {
  const queries = useQueryClient();
  const [base, setBase] = useState(opened);
  const [drafts, setDrafts] = useState<Readonly<Record<string, Draft>>>({});
  const [reason, setReason] = useState('');
  const [changed, setChanged] = useState<{ readonly before: Plan; readonly now: Plan }>();
  const subjects = useQuery({
    queryKey: ['subjects'],
    queryFn: async ({ signal }) => (await retention.listSubjects({ pageSize: 200 }, { signal })).subjects,
  });
  const windows = new Map(base.windows.map((window) => [window.subject, window]));
  const names = [...new Set([...windows.keys(), ...(subjects.data ?? []).map(({ name }) => name)])].toSorted();
  const edited = names.filter((name) => {
    const draft = drafts[name];
    return draft && !isSame(draft, draftOf(windows.get(name)));
  });
  const isComplete = edited.every((name) => drafts[name]?.kind !== WindowKind.DAYS || Number(drafts[name]?.days) > 0);

  const request = () => ({
    name: base.name,
    reason,
    etag: base.etag,
    windows: edited.map((subject) => {
      const { kind, days, minToKeep } = drafts[subject] ?? draftOf(undefined);
      return kind === WindowKind.DAYS
        ? { subject, kind, retentionDays: Number(days), minToKeep: BigInt(minToKeep || 0) }
        : { subject, kind };
    }),
  });
  /** Reads the plan anew where somebody else has changed it. */
  const whenRefused = async (error: Error) => {
    if (reasonOf(error) !== 'ETAG_MISMATCH') return;
    const now = (await retention.getPlan({ name: base.name })).plan;
    if (now) setChanged({ before: base, now });
  };
  const preview = useMutation({
    mutationFn: () => retention.updatePlan({ ...request(), reason: reason || 'preview', validateOnly: true }),
    onError: whenRefused,
  });
  const save = useMutation({
    mutationFn: () => retention.updatePlan(request()),
    onError: whenRefused,
    onSuccess: async () => {
      await Promise.all(
        ['plans', 'plan-windows', 'retention-windows'].map((key) => queries.invalidateQueries({ queryKey: [key] })),
      );
      notifications.show({ message: `The plan ${base.name} was changed.` });
      onClose();
    },
  });
  // A preview is of the drafts that were previewed and of no others.
  const edit = (name: string, change: Partial<Draft>) => {
    setDrafts((all) => ({ ...all, [name]: { ...(all[name] ?? draftOf(windows.get(name))), ...change } }));
    preview.reset();
    save.reset();
  };
  const error = save.error ?? preview.error;
  const floors = new Set((subjects.data ?? []).filter(({ hasFloor }) => hasFloor).map(({ name }) => name));
  return (
    <Modal opened onClose={onClose} title={`Change the plan ${base.name}`} size="lg">
      <Stack>
        {names.map((name) => {
          const draft = drafts[name] ?? draftOf(windows.get(name));
          const label = subjectLabel(name);
          return (
            <Group key={name} align="end" gap="xs">
              <Select
                label={label}
                w={200}
                allowDeselect={false}
                value={String(draft.kind)}
                onChange={(value) => value && edit(name, { kind: Number(value) as WindowKind })}
                data={KINDS}
              />
              {draft.kind === WindowKind.DAYS && (
                <NumberInput
                  label="Days"
                  aria-label={`${label}: days`}
                  w={100}
                  min={1}
                  max={MAX_DAYS}
                  allowDecimal={false}
                  value={draft.days}
                  onChange={(days) => edit(name, { days })}
                />
              )}
              {draft.kind === WindowKind.DAYS && floors.has(name) && (
                <NumberInput
                  label="Always keep the newest"
                  w={170}
                  min={0}
                  allowDecimal={false}
                  thousandSeparator=" "
                  value={draft.minToKeep}
                  onChange={(minToKeep) => edit(name, { minToKeep })}
                />
              )}
            </Group>
          );
        })}
        {subjects.isError && <ErrorAlert error={subjects.error} onRetry={() => subjects.refetch()} />}
        <Divider />
        <Textarea
          label="Reason"
          description="For the plan’s history and the audit."
          required
          maxLength={500}
          autosize
          value={reason}
          onChange={(event) => setReason(event.currentTarget.value)}
        />
        {changed ? (
          <Alert
            color="orange"
            variant="light"
            title="The plan was changed meanwhile"
            icon={<IconAlertTriangle size={18} aria-hidden />}
          >
            <Stack gap="xs">
              {changesBetween(changed.before, changed.now).map((window) => (
                <Text key={window.subject} size="sm">
                  {subjectLabel(window.subject)}: now {planWindowLabel(window).toLowerCase()}, by {window.actor}{' '}
                  <RelativeTime time={window.recordTime} />
                  {window.reason && `: ${window.reason}`}
                </Text>
              ))}
              <Group>
                <Button
                  size="xs"
                  onClick={() => {
                    setBase(changed.now);
                    setChanged(undefined);
                    preview.reset();
                    save.reset();
                  }}
                >
                  Go on from there
                </Button>
              </Group>
            </Stack>
          </Alert>
        ) : (
          error && <ErrorAlert error={error} />
        )}
        {preview.isSuccess && (
          <section aria-label="Preview">
            <Text size="sm" fw={600}>
              Nothing has been changed yet. With this change, the next purge would take:
            </Text>
            <ForecastTable forecasts={preview.data.forecasts} />
          </section>
        )}
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose}>
            Cancel
          </Button>
          <Button
            variant="light"
            disabled={edited.length === 0 || !isComplete || changed !== undefined}
            loading={preview.isPending}
            onClick={() => preview.mutate()}
          >
            Preview
          </Button>
          <Button
            disabled={!preview.isSuccess || reason.trim() === '' || changed !== undefined}
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

/** The windows of the newer plan that the older one had in another version, or not at all. */
function changesBetween(before: Plan, now: Plan): readonly PlanWindow[] {
  const versions = new Map(before.windows.map(({ subject, version }) => [subject, version]));
  return now.windows.filter(({ subject, version }) => versions.get(subject) !== version);
}
