import { ConnectError } from '@connectrpc/connect';
import { Button, Group, Text } from '@mantine/core';
import { notifications } from '@mantine/notifications';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import type { Run } from '#gen/lethe/run/v1/run_pb.ts';
import { adviceOf } from '../parts/advice.ts';
import { reasonOf } from '../parts/error-alert.tsx';
import { ACTION_TOAST_MS } from '../parts/toasts.ts';
import { runs } from '../rpc.ts';
import { runTitle } from './run-words.tsx';

/** Shows why something did not work, with what to do about it. */
export function notifyError(title: string, error: unknown): void {
  const { rawMessage, code } = ConnectError.from(error);
  const advice = adviceOf(reasonOf(error), code);
  notifications.show({
    color: 'red',
    title,
    message: [rawMessage, advice].filter(Boolean).join(' '),
    autoClose: false,
    role: 'alert',
  });
}

// About eight seconds in all.
const MAX_WAITS = 5;
const FIRST_WAIT_MS = 250;

/** Deleting a run at once, with a way back, and bringing one back. Lists and pages that show it follow. */
export function useRunActions() {
  const queries = useQueryClient();
  const refresh = () =>
    Promise.all(
      ['runs', 'run', 'deleted-runs', 'deletions'].map((key) => queries.invalidateQueries({ queryKey: [key] })),
    );

  const undelete = async (run: Run): Promise<void> => {
    try {
      await runs.undeleteRun({ runId: run.id, requestId: crypto.randomUUID() });
      notifications.show({ message: `${runTitle(run)} is back.` });
    } catch (error) {
      notifyError(`${runTitle(run)} could not be undeleted`, error);
    } finally {
      await refresh();
    }
  };

  const deletion = useMutation({
    mutationFn: (run: { readonly runId: string; readonly etag: string; readonly requestId: string }) =>
      runs.deleteRun(run),
    // A run that was brought back is seen again before every service has its part of it back.
    retry: (waits, error) => waits < MAX_WAITS && reasonOf(error) === 'OPERATION_IN_PROGRESS',
    retryDelay: (waits) => FIRST_WAIT_MS * 2 ** waits,
  });

  const softDelete = async (run: Run): Promise<void> => {
    try {
      await deletion.mutateAsync({ runId: run.id, etag: run.etag, requestId: crypto.randomUUID() });
    } catch (error) {
      notifyError(`${runTitle(run)} could not be deleted`, error);
      await refresh();
      return;
    }
    const id = `deleted-${run.id}`;
    notifications.show({
      id,
      autoClose: ACTION_TOAST_MS,
      withCloseButton: true,
      message: (
        <Group justify="space-between" wrap="nowrap" gap="sm">
          <Text size="sm">{runTitle(run)} was deleted.</Text>
          <Button
            size="xs"
            variant="default"
            onClick={() => {
              notifications.hide(id);
              void undelete(run);
            }}
          >
            Undo
          </Button>
        </Group>
      ),
    });
    await refresh();
  };
  return { softDelete, undelete, refresh };
}
