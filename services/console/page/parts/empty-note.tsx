import { EmptyState } from '@mantine/core';
import { IconInbox } from '@tabler/icons-react';
import type { ReactNode } from 'react';

interface EmptyNoteProps {
  /** What is not there, as a sentence. */
  readonly children: ReactNode;
  readonly icon?: ReactNode;
  readonly actions?: ReactNode;
}

/** Says that a list has nothing to show, and why. */
export const EmptyNote = ({ children, icon = <IconInbox aria-hidden />, actions }: EmptyNoteProps) => (
  <EmptyState size="sm" py="xl" icon={icon} description={children} role="status">
    {actions && <EmptyState.Actions>{actions}</EmptyState.Actions>}
  </EmptyState>
);
