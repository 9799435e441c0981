import { Alert, Button, Group, type MantineColor, Modal, Stack, Text, Textarea, TextInput } from '@mantine/core';
import { IconAlertTriangle } from '@tabler/icons-react';
import { type FormEvent, type ReactNode, useState } from 'react';
import { ErrorAlert } from './error-alert.tsx';

interface ConfirmDialogProps {
  readonly opened: boolean;
  readonly onClose: () => void;
  readonly title: string;
  /** What will happen, in numbers. */
  readonly children?: ReactNode;
  readonly confirmLabel: string;
  readonly color?: MantineColor;
  /** Cannot be undone: says so. */
  readonly isFinal?: boolean;
  /** Has to be typed before the dialog can be confirmed. */
  readonly typed?: { readonly text: string; readonly label: ReactNode };
  /** Whether a reason is asked for. */
  readonly reason?: 'required' | 'optional' | 'none';
  /** Why it cannot be confirmed at the moment, though everything is filled in. */
  readonly blockedBecause?: string | undefined;
  /** Does it; the dialog closes when it resolves, and shows the error when it throws. */
  readonly onConfirm: (reason: string) => Promise<unknown>;
}

const MAX_REASON = 500;

/** Asks before something is done: what will go, why, and, for what cannot be undone, a text to type. */
export function ConfirmDialog({ opened, onClose, title, ...rest }: ConfirmDialogProps) {
  return (
    <Modal opened={opened} onClose={onClose} title={title} size="lg">
      <ConfirmForm onClose={onClose} {...rest} />
    </Modal>
  );
}

type ConfirmFormProps = Omit<ConfirmDialogProps, 'opened' | 'title'>;

// Below the modal, so that each opening begins with empty fields.
function ConfirmForm({
  onClose,
  children,
  confirmLabel,
  color,
  isFinal = false,
  typed,
  reason: asked = 'none',
  blockedBecause,
  onConfirm,
}: ConfirmFormProps) {
  const [reason, setReason] = useState('');
  const [text, setText] = useState('');
  const [error, setError] = useState<unknown>();
  const [isBusy, setBusy] = useState(false);
  const isReady = (!typed || text.trim() === typed.text) && (asked !== 'required' || reason.trim() !== '');
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await onConfirm(reason.trim());
      onClose();
    } catch (thrown) {
      setError(thrown);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form onSubmit={submit}>
      <Stack gap="sm">
        {children}
        {asked !== 'none' && (
          <Textarea
            label="Reason"
            description={
              asked === 'required'
                ? 'Kept in the receipt and the audit.'
                : 'Optional. Kept in the receipt and the audit.'
            }
            required={asked === 'required'}
            autosize
            minRows={1}
            maxRows={4}
            maxLength={MAX_REASON}
            value={reason}
            onChange={(event) => setReason(event.currentTarget.value)}
            {...(!typed && { 'data-autofocus': true })}
          />
        )}
        {typed && (
          <TextInput
            label={typed.label}
            placeholder={typed.text}
            autoComplete="off"
            spellCheck={false}
            value={text}
            onChange={(event) => setText(event.currentTarget.value)}
            data-autofocus
          />
        )}
        {isFinal && (
          <Text size="sm" c="dimmed">
            <IconAlertTriangle size={15} aria-hidden style={{ verticalAlign: '-2px' }} /> This cannot be undone.
          </Text>
        )}
        {error !== undefined && <ErrorAlert error={error} />}
        {blockedBecause && (
          <Alert color="orange" variant="light" p="xs">
            {blockedBecause}
          </Alert>
        )}
        <Group justify="flex-end" gap="xs">
          <Button variant="default" onClick={onClose}>
            Cancel
          </Button>
          <Button
            type="submit"
            color={color ?? (isFinal ? 'red' : 'blue')}
            loading={isBusy}
            disabled={!isReady || blockedBecause !== undefined}
          >
            {confirmLabel}
          </Button>
        </Group>
      </Stack>
    </form>
  );
}
